//! What is wrong in a file that people write: where, what, and the mend.
//! A reader of such a file collects all its findings; the binary renders them.

use std::fmt;

/// One thing that is wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub file: String,
    /// From 1; 0 where it is not known.
    pub line: usize,
    /// In characters, from 1; 0 where it is not known.
    pub column: usize,
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
}

impl Finding {
    /// What is wrong with a file or folder as a whole.
    pub fn of_file(file: impl fmt::Display, message: impl fmt::Display) -> Finding {
        Finding { file: file.to_string(), line: 0, column: 0, message: message.to_string(), help: None }
    }
}

impl fmt::Display for Finding {
    /// `file:line:column: message`, and the help on a line of its own.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)?;
        match &self.help {
            Some(help) => write!(formatter, "\n  help: {help}"),
            None => Ok(()),
        }
    }
}

/// The known word that `word` was probably meant to be: the nearest one within a third of its length, letter case
/// aside. The first wins where several are equally near.
pub fn nearest<'w>(word: &str, known: &[&'w str]) -> Option<&'w str> {
    // Longer words are no slips of the pen, and the distance costs their product.
    const WORD_BYTES_MAX: usize = 64;
    if word.len() > WORD_BYTES_MAX {
        return None;
    }
    let lower = word.to_lowercase();
    known
        .iter()
        .map(|candidate| (distance(&lower, &candidate.to_lowercase()), *candidate))
        .filter(|(steps, candidate)| *steps <= (candidate.len().max(3) / 3))
        .min_by_key(|(steps, _)| *steps)
        .map(|(_, candidate)| candidate)
}

/// How many letters must be put in, taken out, replaced or swapped with their neighbour to make `left` `right`.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    // One row for each letter of `left`, of the distances to each beginning of `right`; the last two are kept.
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=right.len()).collect();
    let mut previous = None;
    for (line, letter) in left.chars().enumerate() {
        let mut row = vec![line + 1];
        for (column, other) in right.iter().enumerate() {
            let at = |cells: &[usize], index: usize| cells.get(index).copied().unwrap_or(usize::MAX - 1);
            let replaced = at(&above, column) + usize::from(letter != *other);
            let mut least = replaced.min(at(&above, column + 1) + 1).min(at(&row, column) + 1);
            let swapped = column > 0 && previous == Some(*other) && right.get(column - 1) == Some(&letter);
            if swapped {
                least = least.min(at(&before, column - 1) + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut above, row);
        previous = Some(letter);
    }
    above.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_reads_as_compilers_write_them() {
        let mut finding =
            Finding { file: "claims.yaml".into(), line: 3, column: 5, message: "no such key".into(), help: None };
        assert_eq!(finding.to_string(), "claims.yaml:3:5: no such key");
        finding.help = Some("take another".into());
        assert_eq!(finding.to_string(), "claims.yaml:3:5: no such key\n  help: take another");
    }

    #[test]
    fn a_slip_of_the_pen_finds_its_word() {
        let known = ["grant", "refuse", "name", "when", "leewaySeconds"];
        let check = |word: &str, expected: Option<&str>| assert_eq!(nearest(word, &known), expected, "{word}");
        check("grnat", Some("grant"));
        check("Grant", Some("grant"));
        check("grants", Some("grant"));
        check("wen", Some("when"));
        check("leeway_seconds", Some("leewaySeconds"));
        check("names", Some("name"));
        check("permit", None);
        check("", None);
        check(&"grant".repeat(50), None);
        check("ärant", Some("grant"));
    }
}
