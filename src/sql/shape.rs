//! Trees as text that two trees share exactly when they are equal but for the places where their nodes stood. The text is made
//! by serialising the tree, so it has every field of every node by construction; the fields that hold places are left out by
//! their names.

use std::fmt::{Debug, Display, Write};

use serde::Serialize;
use serde::ser::{self, Serializer};

/// Fields that hold offsets into the text, and the version of the parser.
const PLACES: [&str; 12] = [
    "location",
    "arg_location",
    "conninfo_location",
    "name_location",
    "payload_location",
    "list_start",
    "list_end",
    "rexpr_list_start",
    "rexpr_list_end",
    "stmt_len",
    "stmt_location",
    "version",
];

/// The shape of a tree or of a node in it. A part's shape stands within the whole's, and within no string of it: quotes in
/// strings are escaped.
pub fn shape(tree: &(impl Serialize + Debug)) -> String {
    let mut shape = Shape(String::with_capacity(1 << 10));
    match tree.serialize(&mut shape) {
        Ok(()) => shape.0,
        // Derived code does not fail. Places are in this text: it equals that of no other tree.
        Err(Failed) => format!("{tree:?}"),
    }
}

/// How the shape of every reference to a range variable begins: `alias`, `alias.column`, `alias.*`.
pub fn of_references(alias: &str) -> String {
    format!("ColumnRef{{{{{},", shape(&super::tree::string(alias)))
}

/// Writes `{field,field,}` for what has fields or items, the variant's name before what it holds, `~` for nothing.
struct Shape(String);

#[derive(Debug, thiserror::Error)]
#[error("a tree cannot be serialised")]
struct Failed;

impl ser::Error for Failed {
    fn custom<T: Display>(_: T) -> Failed {
        Failed
    }
}

impl Shape {
    fn put(&mut self, value: impl Display) -> Result<(), Failed> {
        write!(self.0, "{value}").map_err(|_| Failed)
    }

    fn open(&mut self, name: &str) -> Result<&mut Shape, Failed> {
        self.0.push_str(name);
        self.0.push('{');
        Ok(self)
    }

    fn item(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), Failed> {
        value.serialize(&mut *self)?;
        self.0.push(',');
        Ok(())
    }

    fn close(&mut self) -> Result<(), Failed> {
        self.0.push('}');
        Ok(())
    }
}

macro_rules! plain {
    ($($method:ident($type:ty))+) => {$(
        fn $method(self, value: $type) -> Result<(), Failed> {
            self.put(value)
        }
    )+};
}

impl<'a> Serializer for &'a mut Shape {
    type Ok = ();
    type Error = Failed;
    type SerializeSeq = &'a mut Shape;
    type SerializeTuple = &'a mut Shape;
    type SerializeTupleStruct = &'a mut Shape;
    type SerializeTupleVariant = &'a mut Shape;
    type SerializeMap = &'a mut Shape;
    type SerializeStruct = &'a mut Shape;
    type SerializeStructVariant = &'a mut Shape;

    plain!(
        serialize_bool(bool) serialize_char(char) serialize_f32(f32) serialize_f64(f64)
        serialize_i8(i8) serialize_i16(i16) serialize_i32(i32) serialize_i64(i64)
        serialize_u8(u8) serialize_u16(u16) serialize_u32(u32) serialize_u64(u64)
    );

    fn serialize_str(self, value: &str) -> Result<(), Failed> {
        self.0.push('"');
        for (i, part) in value.split(['"', '\\']).enumerate() {
            if i > 0 {
                // The character that was split at stands behind what has been read.
                let at = part.as_ptr() as usize - value.as_ptr() as usize;
                self.0.push('\\');
                self.0.push_str(&value[at - 1..at]);
            }
            self.0.push_str(part);
        }
        self.0.push('"');
        Ok(())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), Failed> {
        value.iter().try_fold(self.open("")?, |shape, byte| shape.item(byte).map(|()| shape))?.close()
    }

    fn serialize_none(self) -> Result<(), Failed> {
        self.put('~')
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Failed> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Failed> {
        self.put("{}")
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Failed> {
        self.put("{}")
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), Failed> {
        self.open(variant)?.close()
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Failed> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Failed> {
        self.0.push_str(variant);
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self, Failed> {
        self.open("")
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, Failed> {
        self.open("")
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Failed> {
        self.open("")
    }

    fn serialize_tuple_variant(self, _: &'static str, _: u32, variant: &'static str, _: usize) -> Result<Self, Failed> {
        self.open(variant)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self, Failed> {
        self.open("")
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Failed> {
        self.open("")
    }

    fn serialize_struct_variant(self, _: &'static str, _: u32, variant: &'static str, _: usize) -> Result<Self, Failed> {
        self.open(variant)
    }
}

/// What serde asks for by a trait for each kind of compound: all are items between brackets.
macro_rules! compounds {
    ($($kind:ident { $(fn $part:ident($($name:ident: $type:ty)?);)+ })+) => {$(
        impl ser::$kind for &mut Shape {
            type Ok = ();
            type Error = Failed;

            $(fn $part<T: Serialize + ?Sized>(&mut self, $($name: $type,)? value: &T) -> Result<(), Failed> {
                $(if PLACES.contains(&$name) {
                    return Ok(());
                })?
                self.item(value)
            })+

            fn end(self) -> Result<(), Failed> {
                self.close()
            }
        }
    )+};
}

compounds! {
    SerializeSeq { fn serialize_element(); }
    SerializeTuple { fn serialize_element(); }
    SerializeTupleStruct { fn serialize_field(); }
    SerializeTupleVariant { fn serialize_field(); }
    SerializeMap { fn serialize_key(); fn serialize_value(); }
    SerializeStruct { fn serialize_field(name: &'static str); }
    SerializeStructVariant { fn serialize_field(name: &'static str); }
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;

    #[test]
    fn shape_forgets_places_and_nothing_else() {
        let shape = |text: &str| super::shape(&parse(text).unwrap());
        assert_eq!(shape("select  a , 'location: 1'"), shape("select a,'location: 1'"));
        assert_ne!(shape("select 'location: 1'"), shape("select 'location: 2'"));
        assert_ne!(shape("select '\", location: 1'"), shape("select '\", location: 2'"));
        assert_ne!(shape("select a"), shape("select b"));
        assert_eq!(shape("select a in (1,2)"), shape("select a in ( 1 , 2 )"));
    }

    #[test]
    fn references_are_found_in_shapes() {
        let shape = |text: &str| super::shape(&parse(text).unwrap());
        for text in ["select a", "select a.b", "select a.*", "select f(1, x.y, a.b)", "table t order by (a).b"] {
            assert!(shape(text).contains(&super::of_references("a")), "{text}");
        }
        for text in ["select 'a'", "select b.a", "select '\"a\"'", "select \"a\"\"\"", "select a()", "select 1 as a", "select aa"]
        {
            assert!(!shape(text).contains(&super::of_references("a")), "{text}");
        }
        assert!(shape("select \"a\\\"\"b\"").contains(&super::of_references("a\\\"b")));
    }
}
