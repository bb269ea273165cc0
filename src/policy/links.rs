//! Templates and links.yaml → policies, written out. Hides Cedar's templates: whoever decides sees policies alone.
//! INVARIANT: a link fills each slot of its template, and nothing else of it.
//! Source: Cedar, "Policy templates".

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;

use cedar_policy::{EntityUid, Policy, PolicyId, PolicySet, SlotId, Template};
use serde_json::json;

use crate::claims::nodes::{Entries, Node, Reader, Value};
use crate::finding::Finding;
use crate::policy::analysis::is_shallow;

/// Which templates are filled in, and with what.
pub const LINKS: &str = "links.yaml";

/// A template, filled in.
pub struct Link {
    /// by its id
    pub template: String,
    pub policy: Policy,
    /// where it stands in the text, in bytes
    pub offset: usize,
}

/// What links.yaml makes of the templates, which are known by their ids; or all that is wrong with it.
pub fn written_out(text: &str, templates: &BTreeMap<String, Template>) -> Result<Vec<Link>, Vec<Finding>> {
    let (reader, root) = Reader::open(LINKS, text).map_err(|finding| vec![finding])?;
    let mut offset = 0;
    let mut link = |node| {
        let (template, id, policy) = Links { reader: &reader, templates }.link(node)?;
        // ids stand in the file's order
        offset += text.get(offset..).and_then(|rest| rest.find(id)).unwrap_or_default();
        Some(Link { template: template.to_owned(), policy, offset })
    };
    let entries = reader.entries(&root, LINKS, &["links"]);
    let policies = match entries.as_ref().and_then(|entries| entries.get("links")) {
        // who takes back the last link leaves an empty list
        Some(Node { value: Value::List(links), .. }) => links.iter().filter_map(&mut link).collect(),
        _ => {
            reader.problem(root.place, "links: a list is wanted here");
            Vec::new()
        }
    };
    let findings = reader.findings();
    if findings.is_empty() { Ok(policies) } else { Err(findings) }
}

struct Links<'r> {
    reader: &'r Reader<'r>,
    templates: &'r BTreeMap<String, Template>,
}

impl Links<'_> {
    fn link<'n>(&self, node: &'n Node) -> Option<(&'n str, &'n str, Policy)> {
        let entries = self.reader.entries(node, "link", &["template", "id", "principal", "resource"])?;
        let name = self.text(&entries, "template");
        let id = self.text(&entries, "id");
        let template = name.and_then(|name| {
            let known = self.templates.get(name);
            if known.is_none() {
                let help =
                    "a template is a policy with `?principal` or `?resource` in its scope; it is named by its `@id`";
                self.reader.problem_with_help(node.place, format!("there is no template `{name}`"), help);
            }
            known
        })?;
        let mut filled = HashMap::new();
        for (key, slot) in [("principal", SlotId::principal()), ("resource", SlotId::resource())] {
            let is_wanted = template.slots().any(|wanted| *wanted == slot);
            match (is_wanted, entries.get(key)) {
                (true, Some(entity)) => drop(filled.insert(slot, self.entity(entity, key)?)),
                (true, None) => {
                    self.reader.problem(node.place, format!("`{key}` is missing: the template has `?{key}`"));
                    return None;
                }
                (false, Some(value)) => {
                    self.reader.problem(value.place, format!("`{key}` is too much: the template has no `?{key}`"));
                }
                (false, None) => {}
            }
        }
        let id = id?;
        match policy(template, id, filled) {
            Ok(policy) => Some((name?, id, policy)),
            Err(message) => {
                self.reader.problem(node.place, message);
                None
            }
        }
    }

    fn text<'n>(&self, entries: &Entries<'n>, key: &str) -> Option<&'n str> {
        let found = entries.get(key);
        if found.is_none() {
            self.reader.problem(entries.place, format!("a link has a `{key}`"));
        }
        self.reader.text(found?, key)
    }

    fn entity(&self, node: &Node, key: &str) -> Option<EntityUid> {
        let uid = EntityUid::from_str(self.reader.text(node, key)?);
        if uid.is_err() {
            let help = "write the entity as Cedar does, such as `Patient::\"123\"`";
            self.reader.problem_with_help(node.place, format!("{key}: this is no entity"), help);
        }
        uid.ok()
    }
}

/// The template, filled in, as a policy with this id.
fn policy(template: &Template, id: &str, filled: HashMap<SlotId, EntityUid>) -> Result<Policy, String> {
    let (template_id, link_id) = (PolicyId::new("template"), PolicyId::new("link"));
    let mut set = PolicySet::new();
    set.add_template(template.new_id(template_id.clone())).map_err(|error| error.to_string())?;
    set.link(template_id, link_id.clone(), filled).map_err(|error| error.to_string())?;
    let linked = set.policy(&link_id).ok_or("the link is lost")?;
    let mut json = linked.to_json().map_err(|error| error.to_string())?;
    is_shallow(&json)?;
    let annotations = json.get_mut("annotations").and_then(|annotations| annotations.as_object_mut());
    annotations.ok_or("the template has no annotations")?.insert("id".to_owned(), json!(id));
    Policy::from_json(Some(link_id), json).map_err(|error| error.to_string())
}
