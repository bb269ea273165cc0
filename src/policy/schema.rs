//! The Cedar schema: what a policy may say about principals, actions, resources and context.
//! Hides its text: the part about principals, and the part generated from HL7's definitions, type by type.
//! INVARIANT: every resource type has the same shape, so that a policy which names no type means the same for all.
//! Source: shared/DESIGN "The Cedar model".

use std::fmt::Write;

use crate::fhir::action::{Action, GROUPS};
use crate::fhir::definitions::{Compartment, Definitions, ResourceType};

/// The file of a policy folder that holds a copy of this schema for editors; the loader passes it over.
pub const COPY: &str = "cedarward.cedarschema";

/// The entity type that stands for the system level.
pub const SERVER: &str = "FhirServer";

/// The whole schema as Cedar schema text, for one FHIR version.
pub fn text(definitions: &Definitions) -> String {
    let types: Vec<&str> = definitions.resource_types().map(ResourceType::as_str).collect();
    text_for(definitions, |_| types.as_slice())
}

/// The schema with each action applying to the types that `types` gives it, and to `FhirServer`. Validation over every
/// type takes seconds; because all types have one shape, a policy that names none but `types` validates against this as
/// against the whole. Partial evaluation goes through all pairs of action and type to find the one that is asked about.
pub(super) fn text_for<'t>(definitions: &Definitions, types: impl Fn(Action) -> &'t [&'t str]) -> String {
    let mut text = String::from(PRINCIPALS);
    // INVARIANT: writing to a String cannot fail
    let _ = resources(&mut text, definitions);
    let _ = actions(&mut text, types);
    text
}

fn resources(text: &mut String, definitions: &Definitions) -> std::fmt::Result {
    let types: Vec<&str> = definitions.resource_types().map(ResourceType::as_str).collect();
    let compartments = Compartment::ALL.map(Compartment::as_str).join(", ");
    writeln!(text, "// Resources: FHIR's types, members of their compartments, tagged by their search parameters.")?;
    writeln!(text, "entity {} in [{compartments}] {SHAPE} tags Set<String>;", types.join(", "))?;
    writeln!(text, "// The system level.\nentity {SERVER} {SHAPE} tags Set<String>;\n")
}

fn actions<'t>(text: &mut String, types: impl Fn(Action) -> &'t [&'t str]) -> std::fmt::Result {
    writeln!(text, "// Groups: the letters of SMART scopes, and the data actions of Azure's roles.")?;
    let groups: Vec<String> = GROUPS.iter().map(|group| format!("\"{group}\"")).collect();
    writeln!(text, "action {};\n", groups.join(", "))?;
    writeln!(text, "// FHIR's interactions and operations.")?;
    for (action, groups) in Action::all() {
        write!(text, "action \"{action}\"")?;
        if !groups.is_empty() {
            let quoted: Vec<String> = groups.iter().map(|group| format!("\"{group}\"")).collect();
            write!(text, " in [{}]", quoted.join(", "))?;
        }
        writeln!(text, " appliesTo {{ principal: [User, Client], resource: [")?;
        let types: Vec<&str> = [SERVER].iter().chain(types(action)).copied().collect();
        writeln!(text, "  {}", types.join(", "))?;
        writeln!(text, "], context: FhirContext }};")?;
    }
    Ok(())
}

// The shape of every resource: the labels of its `meta`.
const SHAPE: &str = "{
  // meta.security and meta.tag, as `code` and as `system|code`
  security: Set<String>,
  tag: Set<String>,
  profile: Set<String>,
  source?: String,
}";

const PRINCIPALS: &str = r#"// The schema of Cedarward's policies, printed by `cedarward schema`. This copy is for people and editors:
// Cedarward reads its own. What a deployment adds stands in other `.cedarschema` files beside it.

// Principals: who asks. Roles and groups are what they are members of.
entity Role, UserGroup;
entity User, Client in [Role, UserGroup] {
  issuer: String,
  subject: String,
  client?: String,
  tenant?: String,
  // the scopes as the token has them, and the clinical ones read: level, then letter, then resource types
  scopes: Set<String>,
  smart: { patient: Letters, user: Letters, system: Letters },
  // whether SMART scopes must allow as well: the role "FHIR SMART User" allows nothing alone
  scoped: Bool,
  // the launch patient
  patient?: Patient,
  fhirUser: {
    patient?: Patient,
    practitioner?: Practitioner,
    practitionerRole?: PractitionerRole,
    relatedPerson?: RelatedPerson,
    person?: Person,
  },
} tags Set<String>;

// Resource types by letter; "*" is all of them.
type Letters = { c: Set<String>, r: Set<String>, u: Set<String>, d: Set<String>, s: Set<String> };

type FhirContext = {
  // the resource type that is asked about, or "FhirServer"
  type: String,
  // purpose of use, as the caller names it
  purposes: Set<String>,
  emergency: Bool,
  server: String,
  // why this type is asked about: primary, include, chain, sort, condition, reference, selector
  access: String,
  // the name of an operation, with its `$`
  operation?: String,
  source?: ipaddr,
  now: datetime,
};

"#;
