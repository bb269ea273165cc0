//! References between the entries of a transaction → what they will refer to once it is processed.
//! Hides how an entry is referred to by its `fullUrl`.
//! INVARIANT: a reference to an entry whose id only the server will choose refers to nothing that is known.
//! Source: FHIR http.html (R4) §3.1.0.11.2 "Transaction Processing Rules"; bundle.html §2.36.4.1 "Resolving references".

use std::collections::HashMap;

use serde_json::Value;

use crate::fhir::operation::{Interaction, Operation, OperationError};

/// What stands in place of a reference to what has no id yet: no literal reference.
const UNKNOWN: &str = "urn:x-unknown";

/// The resource of each entry, with its references to other entries resolved. `operations` are those of the entries.
pub fn resolved(bundle: &Value, operations: &[Result<Operation, OperationError>]) -> Vec<Option<Value>> {
    let entries: &[Value] = bundle.get("entry").and_then(Value::as_array).map_or(&[], Vec::as_slice);
    let mut named: HashMap<&str, String> = HashMap::new();
    for (entry, operation) in entries.iter().zip(operations) {
        let url = entry.get("fullUrl").and_then(Value::as_str).unwrap_or_default();
        // a relative reference names what stands under any base: the bundle's own, most likely
        for name in [url, relative(url)].into_iter().filter(|name| !name.is_empty()) {
            let target = will_be(operation);
            let known = named.entry(name).or_insert_with(|| target.clone());
            if *known != target {
                UNKNOWN.clone_into(known);
            }
        }
    }
    let resource = |entry: &Value| {
        let mut resource = entry.get("resource")?.clone();
        if !named.is_empty() {
            resolve(&mut resource, &named);
        }
        Some(resource)
    };
    entries.iter().map(resource).collect()
}

/// `Type/id` of a URL that ends so.
fn relative(url: &str) -> &str {
    let tail = url.rmatch_indices('/').nth(1).and_then(|(slash, _)| url.get(slash + 1..));
    tail.unwrap_or_default()
}

/// `Type/id` of what an entry leaves behind.
fn will_be(operation: &Result<Operation, OperationError>) -> String {
    match operation {
        Ok(Operation {
            interaction: Interaction::Update | Interaction::Patch,
            resource_type: Some(of),
            id: Some(id),
            ..
        }) => {
            format!("{of}/{id}")
        }
        Ok(_) | Err(_) => UNKNOWN.to_owned(),
    }
}

/// Bounded in depth by the bound of the JSON that holds the bundle.
fn resolve(value: &mut Value, named: &HashMap<&str, String>) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| resolve(item, named)),
        Value::Object(members) => {
            for (name, value) in members {
                match value {
                    Value::String(text) if name == "reference" => {
                        if let Some(target) = named.get(text.as_str()) {
                            text.clone_from(target);
                        }
                    }
                    _ => resolve(value, named),
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
