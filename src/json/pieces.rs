//! The bytes of one JSON object as they come → its members as they are complete; the items of `entry` one by one.
//! Hides where a chunk is cut. What is in a piece is judged when it is read: here only strings and brackets are told apart.
//! INVARIANT: of a text that `json::parse` accepts, the pieces are its members; of any other, pieces and an error, or a
//! piece that `json::parse` does not accept. INVARIANT: no more is held than one piece of `bytes_max`.
//! Source: RFC 8259.

use super::{JsonError, JsonErrorKind};

/// A part of the object that is complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// its name, and the text of its value
    Member(String, String),
    /// the text of one of the items of `entry`
    Entry(String),
}

/// Reads one object.
#[derive(Debug)]
pub struct Pieces {
    bytes_max: usize,
    state: State,
    /// the name or value that is being read
    text: Vec<u8>,
    name: String,
    names: Vec<String>,
    depth: usize,
    in_string: bool,
    is_escaped: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Before,
    /// after `{`
    FirstName,
    /// after `,`
    Name,
    InName,
    Colon,
    /// before the value of a member, of an item, of the first item
    Value(Of),
    In(Of),
    After(Of),
    /// after `[` of `entry`
    FirstItem,
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Member,
    Item,
}

/// The array that is given item by item.
const ENTRY: &str = "entry";

impl Pieces {
    pub fn new(bytes_max: usize) -> Pieces {
        Pieces {
            bytes_max,
            state: State::Before,
            text: Vec::new(),
            name: String::new(),
            names: Vec::new(),
            depth: 0,
            in_string: false,
            is_escaped: false,
        }
    }

    /// Takes the next bytes, and gives what they complete.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Piece>, JsonError> {
        let mut pieces = Vec::new();
        for byte in bytes {
            self.take(*byte, &mut pieces)?;
        }
        Ok(pieces)
    }

    /// Bytes of the piece that has begun.
    pub fn held(&self) -> usize {
        self.text.len()
    }

    /// Whether the object is complete.
    pub fn is_whole(&self) -> bool {
        self.state == State::End
    }

    fn take(&mut self, byte: u8, pieces: &mut Vec<Piece>) -> Result<(), JsonError> {
        let is_space = matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        match (self.state, byte) {
            (State::InName, _) => {
                self.text.push(byte);
                if self.ends_string(byte) {
                    self.end_name()?;
                }
            }
            (State::In(of), _) => return self.take_of_value(of, byte, pieces),
            (_, _) if is_space => {}
            (State::Before, b'{') => self.state = State::FirstName,
            (State::FirstName | State::Name, b'"') => {
                self.text.push(byte);
                self.state = State::InName;
            }
            (State::FirstName | State::After(Of::Member), b'}') => self.state = State::End,
            (State::Colon, b':') => self.state = State::Value(Of::Member),
            (State::Value(Of::Member), b'[') if self.name == ENTRY => self.state = State::FirstItem,
            (State::FirstItem | State::After(Of::Item), b']') => self.state = State::After(Of::Member),
            (State::FirstItem, _) => return self.begin_value(Of::Item, byte, pieces),
            (State::Value(of), _) => return self.begin_value(of, byte, pieces),
            (State::After(Of::Member), b',') => self.state = State::Name,
            (State::After(Of::Item), b',') => self.state = State::Value(Of::Item),
            (State::Before | State::FirstName | State::Name | State::Colon | State::After(_) | State::End, _) => {
                return Err(wrong("not an object, or broken"));
            }
        }
        Ok(())
    }

    fn begin_value(&mut self, of: Of, byte: u8, pieces: &mut Vec<Piece>) -> Result<(), JsonError> {
        self.state = State::In(of);
        (self.depth, self.in_string, self.is_escaped) = (0, false, false);
        self.take_of_value(of, byte, pieces)
    }

    fn take_of_value(&mut self, of: Of, byte: u8, pieces: &mut Vec<Piece>) -> Result<(), JsonError> {
        if self.in_string {
            self.hold(byte)?;
            if self.ends_string(byte) {
                self.in_string = false;
                if self.depth == 0 {
                    return self.end_value(of, pieces);
                }
            }
            return Ok(());
        }
        // a number or a word ends before what follows it
        if self.depth == 0 && !self.text.is_empty() && matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r')
        {
            self.end_value(of, pieces)?;
            return self.take(byte, pieces);
        }
        self.hold(byte)?;
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.checked_sub(1).ok_or_else(|| wrong("a bracket that nothing opened"))?;
                if self.depth == 0 {
                    return self.end_value(of, pieces);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn hold(&mut self, byte: u8) -> Result<(), JsonError> {
        if self.text.len() >= self.bytes_max {
            return Err(wrong("a part is too large"));
        }
        self.text.push(byte);
        Ok(())
    }

    /// Of a string that has begun: whether this byte is its last.
    fn ends_string(&mut self, byte: u8) -> bool {
        match (self.is_escaped, byte) {
            (true, _) => self.is_escaped = false,
            (false, b'\\') => self.is_escaped = true,
            (false, b'"') => return true,
            (false, _) => {}
        }
        false
    }

    fn end_name(&mut self) -> Result<(), JsonError> {
        let name: String = serde_json::from_slice(&self.text)?;
        self.text.clear();
        if self.names.contains(&name) {
            return Err(JsonError::new(JsonErrorKind::DuplicateName, super::duplicate(&name), 0, 0));
        }
        self.names.push(name.clone());
        self.name = name;
        self.state = State::Colon;
        Ok(())
    }

    fn end_value(&mut self, of: Of, pieces: &mut Vec<Piece>) -> Result<(), JsonError> {
        let text = String::from_utf8(std::mem::take(&mut self.text)).map_err(|_| wrong("not UTF-8"))?;
        pieces.push(match of {
            Of::Member => Piece::Member(self.name.clone(), text),
            Of::Item => Piece::Entry(text),
        });
        self.state = State::After(of);
        Ok(())
    }
}

fn wrong(message: &str) -> JsonError {
    JsonError::new(JsonErrorKind::Syntax, message, 0, 0)
}

/// For any bytes, cut anywhere: the pieces are the members that the whole text has, if it is an object at all.
#[doc(hidden)]
pub fn holds(bytes: &[u8], cut: usize) -> bool {
    let mut pieces = Pieces::new(bytes.len());
    let (one, other) = bytes.split_at(cut.min(bytes.len()));
    let read = pieces.push(one).and_then(|mut read| {
        read.extend(pieces.push(other)?);
        Ok(read)
    });
    let is_whole = pieces.is_whole();
    let text = std::str::from_utf8(bytes).ok();
    let members = text.and_then(|text| super::members(text).ok()).filter(|_| super::parse(bytes, 64).is_ok());
    let Some(members) = members else {
        // what is no JSON is found out here, or by who reads the pieces
        let is_read = |piece: &Piece| match piece {
            Piece::Member(_, text) | Piece::Entry(text) => super::parse_str(text, 64).is_ok(),
        };
        let object = text.is_some_and(|text| text.trim_start().starts_with('{'));
        let is_found_out = read.map_or(true, |read| !read.iter().all(is_read));
        return !object || !is_whole || is_found_out || super::parse(bytes, 256).is_ok();
    };
    let mut expected = Vec::new();
    for (name, text) in members {
        match super::items(text) {
            Ok(items) if name == ENTRY => {
                expected.extend(items.into_iter().map(|item| Piece::Entry(item.to_owned())));
            }
            _ => expected.push(Piece::Member(name.into_owned(), text.to_owned())),
        }
    }
    is_whole && read == Ok(expected)
}

#[cfg(test)]
mod tests {
    use super::{Piece, Pieces, holds};
    use proptest::prelude::*;

    #[test]
    fn pieces_come_as_they_are_complete() {
        let mut pieces = Pieces::new(100);
        assert_eq!(pieces.push(br#" { "type" : "searchset","to"#).unwrap().len(), 1);
        assert_eq!(pieces.push(br#"tal":1"#).unwrap(), []);
        assert_eq!(
            pieces.push(br#"2, "entry": [ {"a":"]}"}, 3 "#).unwrap(),
            [
                Piece::Member("total".to_owned(), "12".to_owned()),
                Piece::Entry(r#"{"a":"]}"}"#.to_owned()),
                Piece::Entry("3".to_owned())
            ]
        );
        assert!(!pieces.is_whole());
        assert_eq!(pieces.push(b"]} ").unwrap(), []);
        assert!(pieces.is_whole());
        assert!(pieces.push(b"x").is_err());
    }

    #[test]
    fn what_is_no_object_or_too_large_is_an_error() {
        for wrong in [
            "[]",
            "{,}",
            r#"{"a":1,}"#,
            r#"{"a" 1}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"entry":[1,]}"#,
            r#"{"a":}"#,
            r#"{"a":"0123456789012345678901234567890"}"#,
        ] {
            let mut pieces = Pieces::new(20);
            let read = pieces.push(wrong.as_bytes());
            let is_read = read.is_ok_and(|read| {
                read.iter().all(|piece| {
                    let (Piece::Member(_, text) | Piece::Entry(text)) = piece;
                    crate::json::parse_str(text, 9).is_ok()
                })
            });
            assert!(!is_read || !pieces.is_whole(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn pieces_are_members(text in r#"[ ]?\{("(a|entry|b)":(1|"x\\"y"|\[\{\},( )?[2-4]\]|\{"z":\[\]\}|true),?[ ]?){0,3}\}[ ]?"#, cut in 0_usize..60) {
            prop_assert!(holds(text.as_bytes(), cut));
        }

        #[test]
        fn of_anything(text in r#"[{}\[\],:"\\a1 ]{0,24}"#, cut in 0_usize..24) {
            prop_assert!(holds(text.as_bytes(), cut));
        }
    }
}
