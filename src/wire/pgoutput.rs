//! What a logical replication slot of the plugin pgoutput tells, as far as one must know to tell which rows have changed
//! (PostgreSQL documentation, "Logical Replication Message Formats", version 1 of the protocol).

use super::cursor::{Cursor, utf8, violation};
use crate::error::SqlError;

/// A message of the stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Message<'m> {
    /// Changes that are told next are those of this transaction.
    Begin {
        xid: u32,
    },
    /// All of them were told.
    Commit,
    /// How tuples of this relation are to be read from now on.
    Relation(Relation),
    Insert {
        relation: u32,
        new: Tuple<'m>,
    },
    /// `old`: the replica identity before, where it has changed or is the whole row.
    Update {
        relation: u32,
        old: Option<Tuple<'m>>,
        new: Tuple<'m>,
    },
    /// `old`: the replica identity.
    Delete {
        relation: u32,
        old: Tuple<'m>,
    },
    Truncate {
        relations: Vec<u32>,
    },
    /// Types, origins, messages: no rows.
    Other,
}

/// A relation as the publisher knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// pg_class.oid
    pub oid: u32,
    pub columns: Vec<String>,
    /// Columns of the replica identity are told of old rows.
    pub identity: Vec<bool>,
}

/// Values in the order of the relation's columns, in text; `None`: NULL, or not told.
#[derive(Debug, PartialEq, Eq)]
pub struct Tuple<'m>(pub Vec<Option<&'m [u8]>>);

impl<'m> Message<'m> {
    /// # Errors
    /// 08P01 for what is not such a message.
    pub fn parse(body: &'m [u8]) -> Result<Message<'m>, SqlError> {
        let mut cursor = Cursor::new(body);
        let message = match cursor.u8()? {
            b'B' => {
                cursor.bytes(16)?;
                Message::Begin { xid: cursor.u32()? }
            }
            b'C' => {
                cursor.bytes(25)?;
                Message::Commit
            }
            b'R' => Message::Relation(Relation::parse(&mut cursor)?),
            b'I' => {
                let relation = cursor.u32()?;
                expect(&mut cursor, b'N')?;
                Message::Insert { relation, new: Tuple::parse(&mut cursor)? }
            }
            b'U' => {
                let relation = cursor.u32()?;
                let old = match cursor.u8()? {
                    b'K' | b'O' => {
                        let old = Tuple::parse(&mut cursor)?;
                        expect(&mut cursor, b'N')?;
                        Some(old)
                    }
                    b'N' => None,
                    _ => return Err(violation("unknown tuple in the replication stream")), // tidy: not a syntax kind
                };
                Message::Update { relation, old, new: Tuple::parse(&mut cursor)? }
            }
            b'D' => {
                let relation = cursor.u32()?;
                match cursor.u8()? {
                    b'K' | b'O' => Message::Delete { relation, old: Tuple::parse(&mut cursor)? },
                    _ => return Err(violation("unknown tuple in the replication stream")), // tidy: not a syntax kind
                }
            }
            b'T' => {
                let count = cursor.u32()?;
                cursor.u8()?;
                let mut relations = vec![];
                for _ in 0..count {
                    relations.push(cursor.u32()?);
                }
                Message::Truncate { relations }
            }
            b'O' | b'Y' | b'M' => return Ok(Message::Other),
            _ => return Err(violation("unknown message in the replication stream")), // tidy: not a syntax kind
        };
        cursor.end()?;
        Ok(message)
    }
}

fn expect(cursor: &mut Cursor<'_>, wanted: u8) -> Result<(), SqlError> {
    if cursor.u8()? == wanted { Ok(()) } else { Err(violation("unknown tuple in the replication stream")) }
}

impl Relation {
    fn parse(cursor: &mut Cursor<'_>) -> Result<Relation, SqlError> {
        let oid = cursor.u32()?;
        cursor.c_bytes()?;
        cursor.c_bytes()?;
        cursor.u8()?;
        let (mut columns, mut identity) = (vec![], vec![]);
        for _ in 0..cursor.u16()? {
            identity.push(cursor.u8()? & 1 == 1);
            columns.push(utf8(cursor.c_bytes()?)?.to_owned());
            cursor.bytes(8)?;
        }
        Ok(Relation { oid, columns, identity })
    }

    /// A value of a tuple by the column's name.
    pub fn value<'m>(&self, tuple: &Tuple<'m>, column: &str) -> Option<&'m [u8]> {
        tuple.0.get(self.columns.iter().position(|c| c == column)?).copied().flatten()
    }

    /// Whether old rows tell this column.
    pub fn identifies(&self, column: &str) -> bool {
        self.columns.iter().position(|c| c == column).is_some_and(|i| self.identity.get(i) == Some(&true))
    }
}

impl<'m> Tuple<'m> {
    fn parse(cursor: &mut Cursor<'m>) -> Result<Tuple<'m>, SqlError> {
        let mut values = vec![];
        for _ in 0..cursor.u16()? {
            values.push(match cursor.u8()? {
                b'n' | b'u' => None,
                b't' | b'b' => {
                    let length = cursor.u32()? as usize;
                    Some(cursor.bytes(length)?)
                }
                _ => return Err(violation("unknown value in the replication stream")), // tidy: not a syntax kind
            });
        }
        Ok(Tuple(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
    }

    #[test]
    fn changes_are_read_as_they_are_documented() {
        let begin = body(&[b"B", &[0; 16], &7u32.to_be_bytes()]);
        assert_eq!(Message::parse(&begin), Ok(Message::Begin { xid: 7 }));
        let tuple: &[u8] = b"\0\x03t\0\0\0\x011nt\0\0\0\x02ab";
        let values = || Tuple(vec![Some(&b"1"[..]), None, Some(&b"ab"[..])]);
        let insert = body(&[b"I", &9u32.to_be_bytes(), b"N", tuple]);
        assert_eq!(Message::parse(&insert), Ok(Message::Insert { relation: 9, new: values() }));
        let update = body(&[b"U", &9u32.to_be_bytes(), b"K", tuple, b"N", tuple]);
        assert_eq!(Message::parse(&update), Ok(Message::Update { relation: 9, old: Some(values()), new: values() }));
        let delete = body(&[b"D", &9u32.to_be_bytes(), b"K", tuple]);
        assert_eq!(Message::parse(&delete), Ok(Message::Delete { relation: 9, old: values() }));
        let truncate = body(&[b"T", &2u32.to_be_bytes(), &[0], &9u32.to_be_bytes(), &8u32.to_be_bytes()]);
        assert_eq!(Message::parse(&truncate), Ok(Message::Truncate { relations: vec![9, 8] }));
        let relation = body(&[b"R", &9u32.to_be_bytes(), b"public\0item\0d\0\x02\x01id\0", &[0; 8], b"\0n\0", &[0; 8]]);
        let Ok(Message::Relation(relation)) = Message::parse(&relation) else { panic!("a relation") };
        assert_eq!((relation.oid, relation.identifies("id"), relation.identifies("n")), (9, true, false));
        assert_eq!(relation.value(&values(), "id"), Some(&b"1"[..]));
        for cut in 1..update.len() {
            assert!(Message::parse(&update[..cut]).is_err(), "{cut}");
        }
        assert!(Message::parse(b"Z").is_err());
        assert!(Message::parse(b"").is_err());
    }
}
