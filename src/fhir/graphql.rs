//! GraphQL documents → whether they only ask. Hides as much of GraphQL's grammar as that takes.
//! INVARIANT: what is in doubt is no query: a document that is not well bracketed, or ends within a string.
//! Source: GraphQL (October 2021), 2.1 and 2.3; FHIR's `$graphql`.

/// Whether a GraphQL document is well bracketed and has no mutation and no subscription. Strings and comments are
/// skipped, so that nothing in them opens or closes a bracket; a word outside all brackets is never in doubt.
pub fn only_queries(text: &str) -> bool {
    let mut open: Vec<char> = Vec::new();
    let mut selections = 0;
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(|letter: char| letter.is_whitespace() || letter == ',' || letter == '\u{feff}');
        let name: &str =
            rest.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').next().unwrap_or("");
        if !name.is_empty() {
            if open.is_empty() && matches!(name, "mutation" | "subscription") {
                return false;
            }
            rest = rest.strip_prefix(name).unwrap_or_default();
            continue;
        }
        if let Some(after) = rest.strip_prefix("\"\"\"") {
            match after_block_string(after) {
                Some(after) => rest = after,
                None => return false,
            }
            continue;
        }
        let mut letters = rest.chars();
        match letters.next() {
            None => return open.is_empty() && selections > 0,
            Some('#') => {
                rest = rest.split_once(['\n', '\r']).map_or("", |(_, after)| after);
                continue;
            }
            Some('"') => match after_string(letters.as_str()) {
                Some(after) => {
                    rest = after;
                    continue;
                }
                None => return false,
            },
            Some(bracket @ ('{' | '(' | '[')) => open.push(bracket),
            Some(bracket @ ('}' | ')' | ']')) => {
                selections += usize::from(bracket == '}');
                let fits = matches!((open.pop(), bracket), (Some('{'), '}') | (Some('('), ')') | (Some('['), ']'));
                if !fits {
                    return false;
                }
            }
            Some(_) => {}
        }
        rest = letters.as_str();
    }
}

fn after_string(text: &str) -> Option<&str> {
    let mut letters = text.chars();
    loop {
        match letters.next()? {
            '"' => return Some(letters.as_str()),
            '\n' | '\r' => return None,
            '\\' => {
                letters.next()?;
            }
            _ => {}
        }
    }
}

fn after_block_string(text: &str) -> Option<&str> {
    let mut rest = text;
    loop {
        let (before, after) = rest.split_once("\"\"\"")?;
        if !before.ends_with('\\') {
            return Some(after);
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::only_queries;

    #[test]
    fn a_mutation_is_found_wherever_it_stands() {
        let queries = [
            "{a}",
            "query A { a }",
            "{ mutation }",
            "query A { a(id: \"}mutation{\") } # mutation",
            "{a(b: \"\"\" { \"\"\")}",
        ];
        let others = [
            "",
            "{",
            "a",
            "{ a(b: [ ) ] }",
            "mutation{a}",
            "subscription{a}",
            "{a} mutation{b}",
            "{a}#\rmutation{b}",
            "{a(b:\"\\\"\")} mutation{b}",
            "{a(b:\"}) mutation{b}",
            "{a(b:\"\"\" \\\"\"\" { \"\"\")} mutation{b}",
            "\u{feff},mutation{b}",
        ];
        assert_eq!(queries.map(only_queries), [true; 5]);
        assert_eq!(others.map(only_queries), [false; 12]);
    }
}
