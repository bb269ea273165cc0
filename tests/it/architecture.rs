//! Who imports whom, and who touches the world: `src/` held against ARCHITECTURE.md's map.

use std::path::{Path, PathBuf};

/// Rooms from the lowest to the highest; a room may import those before it, and its own.
const ORDER: &[&[&str]] = &[
    &["cache", "finding", "json"],
    &["token", "fhir"],
    &["claims"],
    &["policy"],
    &["embedded"],
    &["engine"],
    &["http/api"],
    &["tables", "http/framing", "http/proxy", "http/results"],
    &["http/authzen", "http/exchange"],
    &["http/server"],
    &["sources"],
    &["config"],
    &["http/service"],
    &["http/grpc"],
    &["main"],
];

/// The rooms that touch the world.
const WORLD: &[&str] = &["http/server", "http/service", "http/grpc", "sources", "main"];

const TOUCHES: &[&str] = &[
    "tokio",
    "hyper",
    "tracing",
    "ureq",
    "notify",
    "std::fs",
    "std::net::Tcp",
    "std::env",
    "std::time::",
    "std::thread",
    "SystemTime",
];

#[test]
fn lower_rooms_never_import_higher_ones() {
    let mut wrong = Vec::new();
    for (room, path, text) in sources() {
        let Some(mine) = rank(&room) else {
            wrong.push(format!("{path}: `{room}` has no place in the order of rooms"));
            continue;
        };
        for import in imports(&text) {
            let allowed = rank(&import).is_some_and(|theirs| theirs < mine || same_room(&room, &import));
            if !allowed {
                wrong.push(format!("{path}: imports `{import}`"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn only_the_marked_rooms_touch_the_world() {
    let mut wrong = Vec::new();
    for (room, path, text) in sources() {
        if WORLD.iter().any(|world| room.starts_with(world)) {
            continue;
        }
        for touch in TOUCHES {
            let found = text.lines().find(|line| line.contains(touch) && !line.trim_start().starts_with("//"));
            if let Some(line) = found {
                wrong.push(format!("{path}: {}", line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Each source file: its room (`http/api`, `fhir/url`), its path, and its text before the tests.
fn sources() -> Vec<(String, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files
        .into_iter()
        .filter(|path| path.file_name().is_some_and(|name| name != "lib.rs"))
        .map(|path| {
            let room = path.strip_prefix(&root).unwrap().with_extension("").display().to_string();
            let text = std::fs::read_to_string(&path).unwrap();
            let before_tests = text.split("#[cfg(test)]").next().unwrap().to_owned();
            (room, path.display().to_string(), before_tests)
        })
        .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Every `crate::…` or `cedarward::…` path of a file, as far as it names a room.
fn imports(text: &str) -> Vec<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| ["crate::", "cedarward::"].into_iter().flat_map(move |root| line.split(root).skip(1)))
        .map(|path| {
            let name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
            let path: String = path.chars().take_while(|c| name(*c)).collect();
            path.trim_end_matches(':').split("::").take(2).collect::<Vec<_>>().join("/")
        })
        .filter(|room| !room.is_empty() && !room.starts_with(char::is_uppercase))
        .collect()
}

fn rank(room: &str) -> Option<usize> {
    ORDER.iter().position(|rooms| {
        rooms.iter().any(|known| {
            room == *known || room.starts_with(&format!("{known}/")) || known.starts_with(&format!("{room}/"))
        })
    })
}

fn same_room(a: &str, b: &str) -> bool {
    a.split('/').next() == b.split('/').next() && !a.starts_with("http")
}

#[test]
fn papers_link_to_papers_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut wrong = Vec::new();
    for folder in [root.to_owned(), root.join("docs"), root.join("docs/adr")] {
        let entries = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        for paper in entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")) {
            let text = std::fs::read_to_string(&paper).unwrap();
            for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
                if !link.is_empty() && !link.contains("://") && !folder.join(link).exists() {
                    wrong.push(format!("{}: {link}", paper.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
