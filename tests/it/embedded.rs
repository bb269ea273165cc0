//! What the binary carries is `policies/`.

use std::collections::BTreeMap;
use std::path::Path;

use cedarward::embedded;
use cedarward::fhir::definitions::{Definitions, FhirVersion};
use cedarward::policy::schema;

#[test]
fn the_binary_carries_the_whole_folder() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    let mut files = BTreeMap::new();
    collect(&root, &root, &mut files);
    let carried: BTreeMap<String, String> =
        embedded::FILES.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
    assert_eq!(carried.keys().collect::<Vec<_>>(), files.keys().collect::<Vec<_>>());
    assert!(carried == files);
}

#[test]
fn the_folders_copy_of_the_schema_is_what_the_command_prints() {
    let printed = schema::text(Definitions::of(FhirVersion::R4));
    let (_, copy) = embedded::FILES.iter().find(|(path, _)| *path == schema::COPY).unwrap();
    assert!(*copy == printed, "write it anew: cargo run -- schema > policies/{}", schema::COPY);
}

fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, files);
        } else {
            let name = path.strip_prefix(root).unwrap().display().to_string();
            files.insert(name, std::fs::read_to_string(&path).unwrap());
        }
    }
}
