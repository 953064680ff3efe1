//! What a record says: one line of JSON, its fields in one order, without blanks. No value of a client's is in it unless a field is
//! for that.

use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::calendar;

thread_local! {
    /// The last second that was written, and how.
    static SECOND: Cell<(u64, [u8; 19])> = const { Cell::new((u64::MAX, [0; 19])) };
    /// Of the last record that was taken on this thread: most are no longer.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What a record was written in, once it has been copied.
pub fn give_back(buffer: Vec<u8>) {
    // A long one is not kept.
    if buffer.capacity() <= 4096 {
        BUFFER.set(buffer);
    }
}

/// A record that is being written: `{"time":..,"event":..` and what is added.
#[derive(Debug)]
pub struct Record(Vec<u8>);

impl Record {
    /// Of this moment.
    pub fn new(event: &'static str) -> Record {
        Record::at(SystemTime::now(), event)
    }

    pub fn at(time: SystemTime, event: &'static str) -> Record {
        let mut record = Record(BUFFER.take());
        record.0.clear();
        record.0.extend_from_slice(b"{\"time\":\"");
        write_time(time, &mut record.0);
        record.0.push(b'"');
        record.word("event", event)
    }

    fn name(&mut self, name: &str) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    pub fn text(mut self, name: &str, value: &str) -> Record {
        self.name(name);
        write_text(value, &mut self.0);
        self
    }

    /// A text in which nothing is to be escaped.
    pub fn word(mut self, name: &str, value: &'static str) -> Record {
        debug_assert!(value.bytes().all(|b| b >= 0x20 && !matches!(b, b'"' | b'\\' | 0x7f)), "{value}");
        self.name(name);
        self.0.push(b'"');
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(b'"');
        self
    }

    pub fn number(mut self, name: &str, value: u64) -> Record {
        self.name(name);
        self.0.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
        self
    }

    pub fn texts<'t>(mut self, name: &str, values: impl IntoIterator<Item = &'t str>) -> Record {
        self.name(name);
        self.0.push(b'[');
        for (i, value) in values.into_iter().enumerate() {
            if i > 0 {
                self.0.push(b',');
            }
            write_text(value, &mut self.0);
        }
        self.0.push(b']');
        self
    }

    pub fn json(mut self, name: &str, value: &serde_json::Value) -> Record {
        self.name(name);
        self.0.extend_from_slice(value.to_string().as_bytes());
        self
    }

    /// The field is left out where there is no value.
    pub fn maybe(self, name: &str, value: Option<&str>) -> Record {
        match value {
            Some(value) => self.text(name, value),
            None => self,
        }
    }

    /// Fields that were written before, as [`fields`](Self::fields) gives them.
    pub fn with(mut self, fields: &[u8]) -> Record {
        self.0.extend_from_slice(fields);
        self
    }

    /// What was added since the event's name, to be added to others.
    pub fn fields(build: impl FnOnce(Record) -> Record) -> Vec<u8> {
        build(Record(vec![])).0
    }

    /// The line, without its end.
    pub fn end(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }
}

/// A JSON string (RFC 8259, section 7): what must be escaped is, as briefly as can be, and nothing else.
fn write_text(value: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let bytes = value.as_bytes();
    let mut from = 0;
    for (at, byte) in bytes.iter().enumerate().filter(|(_, b)| **b < 0x20 || matches!(**b, b'"' | b'\\' | 0x7f)) {
        out.extend_from_slice(&bytes[from..at]);
        from = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            // Control characters, and the one that terminals take for one.
            other => out.extend_from_slice(format!("\\u{other:04x}").as_bytes()),
        }
    }
    out.extend_from_slice(&bytes[from..]);
    out.push(b'"');
}

/// `2026-01-31T23:59:59.123456Z`.
fn write_time(time: SystemTime, out: &mut Vec<u8>) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (known, text) = SECOND.get();
    if known == since.as_secs() {
        out.extend_from_slice(&text);
    } else {
        let from = out.len();
        write_second(since, out);
        if let Ok(text) = out[from..].try_into() {
            SECOND.set((since.as_secs(), text));
        }
    }
    out.push(b'.');
    digits(since.subsec_micros().into(), 6, out);
    out.push(b'Z');
}

fn write_second(since: Duration, out: &mut Vec<u8>) {
    let (year, month, day) = calendar::date(since.as_secs() / 86_400);
    let second = since.as_secs() % 86_400;
    digits(year, 4, out);
    for (before, value) in [(b'-', month), (b'-', day), (b'T', second / 3_600), (b':', second / 60 % 60), (b':', second % 60)] {
        out.push(before);
        digits(value, 2, out);
    }
}

fn digits(mut value: u64, count: usize, out: &mut Vec<u8>) {
    let from = out.len();
    out.resize(from + count, b'0');
    for digit in out[from..].iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_dates_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, "2000-02-28T23:59:59.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        ] {
            let mut out = vec![];
            write_time(UNIX_EPOCH + Duration::from_secs(seconds), &mut out);
            assert_eq!(String::from_utf8(out).as_deref(), Ok(expected));
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_json_that_says_the_same(text in any::<String>(), number in 0..1u64 << 53, list in any::<Vec<String>>()) {
            let line = Record::new("test").text("text", &text).number("number", number).texts("list", list.iter().map(|t| &**t)).end();
            prop_assert!(line.iter().all(|b| *b >= 0x20 && *b != 0x7f), "a line is a line");
            let value: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
            prop_assert_eq!(value["text"].as_str(), Some(&*text));
            prop_assert_eq!(value["number"].as_u64(), Some(number));
            prop_assert_eq!(value["list"].as_array().map(Vec::len), Some(list.len()));
        }
    }
}
