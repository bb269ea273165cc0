//! The actions of the Cedar model: FHIR's interactions and operations, and the groups they stand in.
//! Hides the one table that says what each SMART letter and each Azure data action covers.
//! INVARIANT: an operation that the table does not name is `operation`, which stands in no group.
//! Source: FHIR's restful-interaction value set; SMART App Launch 2.2 "Scopes for requesting FHIR Resources";
//! the data actions of Azure's FHIR roles.

use std::fmt;

/// One action of the Cedar model, by the name it has there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Action(&'static str);

impl Action {
    pub const READ: Action = Action("read");
    pub const VREAD: Action = Action("vread");
    pub const UPDATE: Action = Action("update");
    pub const PATCH: Action = Action("patch");
    pub const DELETE: Action = Action("delete");
    /// `DELETE` with `_hardDelete`: asked beside `delete`.
    pub const HARD_DELETE: Action = Action("hard-delete");
    pub const CREATE: Action = Action("create");
    pub const HISTORY_INSTANCE: Action = Action("history-instance");
    pub const HISTORY_TYPE: Action = Action("history-type");
    pub const HISTORY_SYSTEM: Action = Action("history-system");
    pub const SEARCH_TYPE: Action = Action("search-type");
    pub const SEARCH_SYSTEM: Action = Action("search-system");
    pub const SEARCH_COMPARTMENT: Action = Action("search-compartment");
    pub const CAPABILITIES: Action = Action("capabilities");
    pub const TRANSACTION: Action = Action("transaction");
    pub const BATCH: Action = Action("batch");
    /// Any operation that the table does not name.
    pub const OPERATION: Action = Action("operation");

    /// The action of an operation, by its name with the `$`; `OPERATION` for one that the table does not name.
    pub fn of_operation(name: &str) -> Action {
        TABLE
            .iter()
            .find(|(known, _)| known.starts_with('$') && *known == name)
            .map_or(Action::OPERATION, |(known, _)| Action(known))
    }

    /// Every action with the groups it is a member of.
    pub fn all() -> impl Iterator<Item = (Action, &'static [&'static str])> {
        TABLE.iter().map(|(name, groups)| (Action(name), *groups))
    }

    /// The letters of SMART v2 that cover it; none for most operations.
    pub fn letters(self) -> &'static [&'static str] {
        let groups = TABLE.iter().find(|(known, _)| *known == self.0).map_or(&[][..], |(_, groups)| *groups);
        let letters = groups.iter().take_while(|group| group.len() == 1).count();
        groups.get(..letters).unwrap_or_default()
    }

    pub fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0)
    }
}

/// The groups themselves: SMART's five letters, then the data actions of Azure's roles.
pub const GROUPS: &[&str] = &[
    "c",
    "r",
    "u",
    "d",
    "s",
    "data-action/read",
    "data-action/write",
    "data-action/delete",
    "data-action/hardDelete",
    "data-action/resourceValidate",
    "data-action/export",
    "data-action/import",
    "data-action/convertData",
    "data-action/reindex",
    "data-action/searchParameter",
    "data-action/bulkOperator",
];

// In each row the letters stand before the data actions.
const TABLE: &[(&str, &[&str])] = &[
    ("read", &["r", "data-action/read"]),
    ("vread", &["r", "data-action/read"]),
    ("history-instance", &["r", "data-action/read"]),
    ("search-type", &["s", "data-action/read"]),
    ("search-system", &["s", "data-action/read"]),
    ("search-compartment", &["s", "data-action/read"]),
    ("history-type", &["s", "data-action/read"]),
    ("history-system", &["s", "data-action/read"]),
    ("create", &["c", "data-action/write"]),
    ("update", &["u", "data-action/write"]),
    ("patch", &["u", "data-action/write"]),
    ("delete", &["d", "data-action/delete"]),
    ("hard-delete", &["data-action/hardDelete"]),
    ("capabilities", &[]),
    ("batch", &[]),
    ("transaction", &[]),
    ("operation", &[]),
    // What reads: patient-wide summaries first, which SMART counts as search.
    ("$everything", &["s", "data-action/read"]),
    ("$lastn", &["s", "data-action/read"]),
    ("$docref", &["s", "data-action/read"]),
    ("$expand", &["data-action/read"]),
    ("$lookup", &["data-action/read"]),
    ("$validate-code", &["data-action/read"]),
    ("$translate", &["data-action/read"]),
    ("$subsumes", &["data-action/read"]),
    ("$match", &["data-action/read"]),
    ("$member-match", &["data-action/read"]),
    ("$meta", &["data-action/read"]),
    ("$graphql", &["data-action/read"]),
    // What validates and what writes.
    ("$validate", &["data-action/resourceValidate"]),
    ("$meta-add", &["u", "data-action/write"]),
    ("$meta-delete", &["u", "data-action/write"]),
    ("$purge-history", &["data-action/hardDelete"]),
    // What moves data in bulk.
    ("$export", &["data-action/export"]),
    ("$import", &["data-action/import"]),
    ("$convert-data", &["data-action/convertData"]),
    ("$reindex", &["data-action/reindex"]),
    ("$status", &["data-action/searchParameter"]),
    ("$bulk-delete", &["data-action/bulkOperator"]),
    ("$bulk-update", &["data-action/bulkOperator"]),
    // The other operations of the FHIR standard, Bulk Data, US Core and the Azure services: in no group, so that
    // only a policy that names them, or one for every action, permits them.
    ("$apply", &[]),
    ("$care-gaps", &[]),
    ("$closure", &[]),
    ("$collect-data", &[]),
    ("$compose", &[]),
    ("$conforms", &[]),
    ("$data-requirements", &[]),
    ("$davinci-data-export", &[]),
    ("$document", &[]),
    ("$evaluate", &[]),
    ("$evaluate-measure", &[]),
    ("$find", &[]),
    ("$find-matches", &[]),
    ("$implements", &[]),
    ("$merge", &[]),
    ("$populate", &[]),
    ("$preferred-id", &[]),
    ("$process-message", &[]),
    ("$questionnaire", &[]),
    ("$snapshot", &[]),
    ("$stats", &[]),
    ("$submit-data", &[]),
    ("$subset", &[]),
    ("$transform", &[]),
    ("$versions", &[]),
];
