//! The default policy folder, carried by the binary.
//! INVARIANT: it is `policies/`, file for file (tests/it/embedded.rs).

use crate::policy::folder::Folder;

/// Every file of `policies/`, by its path there.
pub const FILES: &[(&str, &str)] = &[
    ("cedarward.cedarschema", include_str!("../policies/cedarward.cedarschema")),
    ("claims.yaml", include_str!("../policies/claims.yaml")),
    ("everyone.cedar", include_str!("../policies/everyone.cedar")),
    ("roles.cedar", include_str!("../policies/roles.cedar")),
    ("smart.cedar", include_str!("../policies/smart.cedar")),
    ("tests/confidentiality.yaml", include_str!("../policies/tests/confidentiality.yaml")),
    ("tests/evidence.yaml", include_str!("../policies/tests/evidence.yaml")),
    ("tests/known-holes.yaml", include_str!("../policies/tests/known-holes.yaml")),
    ("tests/leaks.yaml", include_str!("../policies/tests/leaks.yaml")),
    ("tests/requests.yaml", include_str!("../policies/tests/requests.yaml")),
    ("tests/roles.yaml", include_str!("../policies/tests/roles.yaml")),
    ("tests/smart.yaml", include_str!("../policies/tests/smart.yaml")),
    ("themes/confidentiality.cedar", include_str!("../policies/themes/confidentiality.cedar")),
];

/// The default policies as a folder.
pub fn folder() -> Folder {
    Folder(FILES.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())).collect())
}
