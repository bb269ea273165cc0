//! A YAML file that people write → nodes that know their place, and the findings about them.
//! Hides how a place is found: serde_yaml tells one only with an error, so the walk that numbered the nodes is made once
//! more and stopped at the node in question.
//! INVARIANT: nodes and their depth are bounded, aliases counted as often as they are used.

use std::cell::{Cell, RefCell};
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, EnumAccess, Error as _, MapAccess, SeqAccess, Visitor};

use crate::finding::{Finding, nearest};

/// How long a file may be.
pub const FILE_BYTES_MAX: usize = 1 << 20;
/// How many nodes it may have. (serde_yaml bounds their depth to 128.)
const NODES_MAX: usize = 100_000;
/// How many findings are told at once.
const FINDINGS_MAX: usize = 50;

/// Which node of the file, in reading order; keys are nodes too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(usize);

/// A value and where it stands.
#[derive(Debug)]
pub struct Node {
    pub place: Place,
    pub value: Value,
}

#[derive(Debug)]
pub enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    Float,
    Text(String),
    List(Vec<Node>),
    /// Keys may still be there twice: `Reader::entries` finds them.
    Map(Vec<(Node, Node)>),
}

/// The values of a map by key, all of them known and there once.
pub struct Entries<'n> {
    pub place: Place,
    entries: Vec<(&'n str, Place, &'n Node)>,
}

impl<'n> Entries<'n> {
    pub fn get(&self, key: &str) -> Option<&'n Node> {
        self.entries.iter().find(|(known, ..)| *known == key).map(|(.., node)| *node)
    }

    /// Each key, its place and its value, in the file's order.
    pub fn iter(&self) -> impl Iterator<Item = (&'n str, Place, &'n Node)> {
        self.entries.iter().copied()
    }
}

/// Reads one file and collects what is wrong with it.
pub struct Reader<'t> {
    file: &'t str,
    text: &'t str,
    problems: RefCell<Vec<(Place, String, Option<String>)>>,
}

impl<'t> Reader<'t> {
    /// The file's root, or the one finding that keeps it from being read at all.
    pub fn open(file: &'t str, text: &'t str) -> Result<(Reader<'t>, Node), Finding> {
        let finding =
            |line, column, message: String| Finding { file: file.to_owned(), line, column, message, help: None };
        if text.len() > FILE_BYTES_MAX {
            return Err(finding(0, 0, format!("the file is longer than {FILE_BYTES_MAX} bytes")));
        }
        match walk(text, None) {
            Ok(root) => Ok((Reader { file, text, problems: RefCell::default() }, root)),
            Err(error) => {
                let (line, column) = error.location().map_or((0, 0), |at| (at.line(), at.column()));
                Err(finding(line, column, without_place(&error.to_string())))
            }
        }
    }

    /// Puts a finding on record.
    pub fn problem(&self, place: Place, message: impl Into<String>) {
        self.problems.borrow_mut().push((place, message.into(), None));
    }

    /// Puts a finding with its mend on record.
    pub fn problem_with_help(&self, place: Place, message: impl Into<String>, help: impl Into<String>) {
        self.problems.borrow_mut().push((place, message.into(), Some(help.into())));
    }

    /// All that was put on record, in the file's order.
    pub fn findings(self) -> Vec<Finding> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|(place, ..)| *place);
        let left_out = problems.len().saturating_sub(FINDINGS_MAX);
        problems.truncate(FINDINGS_MAX);
        let finding = |(place, message, help)| {
            let (line, column) = locate(self.text, place);
            Finding { file: self.file.to_owned(), line, column, message, help }
        };
        let mut findings: Vec<Finding> = problems.into_iter().map(finding).collect();
        if left_out > 0 {
            let message = format!("{left_out} more findings are not shown");
            findings.push(Finding { file: self.file.to_owned(), line: 0, column: 0, message, help: None });
        }
        findings
    }

    /// The entries of a map whose keys are all in `known`. `what` names the map in findings (`rule`, `issuer`).
    pub fn entries<'n>(&self, node: &'n Node, what: &str, known: &[&str]) -> Option<Entries<'n>> {
        let entries = self.any_entries(node, what)?;
        for (key, place, _) in entries.iter().filter(|(key, ..)| !known.contains(key)) {
            let message = format!("unknown {what} key `{key}`");
            match nearest(key, known) {
                Some(meant) => self.problem(place, format!("{message}; did you mean `{meant}`?")),
                None => self.problem_with_help(place, message, format!("known are {}", list(known))),
            }
        }
        Some(entries)
    }

    /// The entries of a map with any keys.
    pub fn any_entries<'n>(&self, node: &'n Node, what: &str) -> Option<Entries<'n>> {
        let Value::Map(pairs) = &node.value else {
            self.problem(node.place, format!("{what}: a map (`key: value`) is wanted here"));
            return None;
        };
        let mut entries: Vec<(&str, Place, &Node)> = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        for (key, value) in pairs {
            match &key.value {
                Value::Text(name) if !seen.insert(name.as_str()) => {
                    self.problem(key.place, format!("the key `{name}` is there twice"));
                }
                Value::Text(name) => entries.push((name, key.place, value)),
                Value::Null | Value::Bool(_) | Value::Integer(_) | Value::Float | Value::List(_) | Value::Map(_) => {
                    self.problem(key.place, "a key is a text; put it in quotes")
                }
            }
        }
        Some(Entries { place: node.place, entries })
    }

    /// A text that is not empty.
    pub fn text<'n>(&self, node: &'n Node, what: &str) -> Option<&'n str> {
        match &node.value {
            Value::Text(text) if !text.is_empty() => return Some(text),
            Value::Text(_) => self.problem(node.place, format!("{what}: the text is empty")),
            Value::Bool(_) | Value::Integer(_) | Value::Float => {
                self.problem(node.place, format!("{what}: a text is wanted here; put it in quotes"));
            }
            Value::Null | Value::List(_) | Value::Map(_) => {
                self.problem(node.place, format!("{what}: a text is wanted here"));
            }
        }
        None
    }

    pub fn bool(&self, node: &Node, what: &str) -> Option<bool> {
        if let Value::Bool(value) = node.value {
            return Some(value);
        }
        self.problem(node.place, format!("{what}: `true` or `false` is wanted here"));
        None
    }

    /// The items of a list that is not empty.
    pub fn list<'n>(&self, node: &'n Node, what: &str) -> Option<&'n [Node]> {
        match &node.value {
            Value::List(items) if !items.is_empty() => return Some(items),
            Value::List(_) => self.problem(node.place, format!("{what}: the list is empty")),
            Value::Null | Value::Bool(_) | Value::Integer(_) | Value::Float | Value::Text(_) | Value::Map(_) => {
                self.problem(node.place, format!("{what}: a list is wanted here"));
            }
        }
        None
    }

    /// The items of a list, or the one item that stands in its place.
    pub fn one_or_list<'n>(&self, node: &'n Node, what: &str) -> &'n [Node] {
        match &node.value {
            Value::List(_) => self.list(node, what).unwrap_or_default(),
            Value::Null | Value::Bool(_) | Value::Integer(_) | Value::Float | Value::Text(_) | Value::Map(_) => {
                std::slice::from_ref(node)
            }
        }
    }
}

/// Words in backticks, with commas between.
pub fn list(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    quoted.join(", ")
}

/// Line and column of a node; 0 and 0 if it cannot be found.
fn locate(text: &str, place: Place) -> (usize, usize) {
    let stopped = walk(text, Some(place)).err();
    stopped.and_then(|error| error.location()).map_or((0, 0), |at| (at.line(), at.column()))
}

fn walk(text: &str, stop: Option<Place>) -> Result<Node, serde_yaml::Error> {
    let count = Cell::new(0);
    Walk { count: &count, stop }.deserialize(serde_yaml::Deserializer::from_str(text))
}

/// serde_yaml's message without the place at its end.
fn without_place(message: &str) -> String {
    let message = message.split(" at line ").next().unwrap_or(message);
    format!("not readable as YAML: {message}")
}

#[derive(Clone, Copy)]
struct Walk<'c> {
    count: &'c Cell<usize>,
    stop: Option<Place>,
}

impl Walk<'_> {
    fn node<E: serde::de::Error>(self, value: Value) -> Result<Node, E> {
        Ok(Node { place: self.begin()?, value })
    }

    /// Numbers the node that begins here, or stops at it.
    fn begin<E: serde::de::Error>(self) -> Result<Place, E> {
        let place = Place(self.count.get());
        self.count.set(place.0 + 1);
        if self.stop == Some(place) {
            return Err(E::custom("the place was found"));
        }
        if place.0 >= NODES_MAX {
            return Err(E::custom(format_args!("more than {NODES_MAX} values")));
        }
        Ok(place)
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Node;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a YAML value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Node, E> {
        self.node(Value::Null)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Node, E> {
        self.node(Value::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Node, E> {
        self.node(Value::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Node, E> {
        self.node(Value::Integer(value.into()))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Node, E> {
        self.node(Value::Integer(value.into()))
    }

    fn visit_i128<E: serde::de::Error>(self, value: i128) -> Result<Node, E> {
        self.node(Value::Integer(value))
    }

    fn visit_u128<E: serde::de::Error>(self, _: u128) -> Result<Node, E> {
        self.node(Value::Float)
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Node, E> {
        self.node(Value::Float)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Node, E> {
        self.node(Value::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let place = self.begin()?;
        let mut nodes = Vec::new();
        while let Some(node) = items.next_element_seed(self)? {
            nodes.push(node);
        }
        Ok(Node { place, value: Value::List(nodes) })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Node, A::Error> {
        let place = self.begin()?;
        let mut nodes = Vec::new();
        while let Some(key) = pairs.next_key_seed(self)? {
            nodes.push((key, pairs.next_value_seed(self)?));
        }
        Ok(Node { place, value: Value::Map(nodes) })
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Node, A::Error> {
        Err(A::Error::custom("a YAML tag (`!…`) has no meaning here"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The places of all texts of a file, keys too.
    fn places(text: &str) -> Vec<String> {
        fn add(node: &Node, text: &str, found: &mut Vec<String>) {
            match &node.value {
                Value::Text(word) => {
                    let (line, column) = locate(text, node.place);
                    found.push(format!("{word} {line}:{column}"));
                }
                Value::List(items) => items.iter().for_each(|item| add(item, text, found)),
                Value::Map(pairs) => pairs.iter().for_each(|(key, value)| {
                    add(key, text, found);
                    add(value, text, found);
                }),
                Value::Null | Value::Bool(_) | Value::Integer(_) | Value::Float => {}
            }
        }
        let (_, root) = Reader::open("f", text).unwrap();
        let mut found = Vec::new();
        add(&root, text, &mut found);
        found
    }

    #[test]
    fn every_node_knows_its_place() {
        let text = "a: b\n# c\nd:\n  - e\n  - {f: g,\n     h: [i]}\nj: &k l\nm: *k\nä: ö\n";
        let expected = [
            "a 1:1", "b 1:4", "d 3:1", "e 4:5", "f 5:6", "g 5:9", "h 6:6", "i 6:10", "j 7:1", "l 7:4", "m 8:1",
            "l 7:4", "ä 9:1", "ö 9:4",
        ];
        assert_eq!(places(text), expected);
    }

    #[test]
    fn what_is_no_yaml_gives_one_finding() {
        let check = |text: &str, expected: &str| {
            let found = Reader::open("f", text).err().map(|finding| finding.to_string());
            assert_eq!(found.as_deref(), Some(expected), "{text:.60}");
        };
        check("a: b\n c: d", "f:2:3: not readable as YAML: mapping values are not allowed in this context");
        check("a: !secret b", "f:1:4: not readable as YAML: a: a YAML tag (`!…`) has no meaning here");
        check("a: *b", "f:1:4: not readable as YAML: unknown anchor");
        check(
            "a: b\n---\nc: d",
            "f:0:0: not readable as YAML: deserializing from YAML containing more than one document is not supported",
        );
        let deep = "[".repeat(200) + &"]".repeat(200);
        check(&deep, "f:1:129: not readable as YAML: recursion limit exceeded");
        let bomb = format!("a: &a [{}0]\nb: [{}0]\n", "0,".repeat(1000), "*a,".repeat(1000));
        check(&bomb, "f:1:1602: not readable as YAML: b[98][797]: more than 100000 values");
        check(&"#".repeat(FILE_BYTES_MAX + 1), "f:0:0: the file is longer than 1048576 bytes");
    }
}
