"""Writes src/fhir/definitions/{r4,r4b,r5}.txt from HL7's definitions, as the published packages named in `run` hold them.

usage: tables.py VALIDATION_R4.jar VALIDATION_R4B.jar VALIDATION_R5.jar HELIOS_FHIR_DIR OUT_DIR
"""

import io
import json
import pathlib
import re
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
import zipfile

FHIR = "{http://hl7.org/fhir}"
HEADER = """\
# HL7 FHIR {version}: resource types, search parameters, compartments. Made by tests/definitions/run; never edit.
# HL7 publishes these definitions under CC0.
# abstract NAME | type NAME of ABSTRACT    begins a type
# choice PATH TYPES                        a choice element of it that an expression names without saying the type
# parameter CODE KIND [TARGETS] [= EXPR]   the alternatives of HL7's expression that are this type's;
#                                          a target `Resource` is every type, and so is none for a reference
# compartment NAME CODES                   the parameters that put it into that compartment
"""
COMPARTMENTS = ["Patient", "Practitioner", "RelatedPerson", "Encounter", "Device"]


def from_xml(element):
    """An XML element → what FHIR's JSON would be, with every member a list."""
    if "value" in element.attrib:
        return element.attrib["value"]
    members = {}
    for child in element:
        members.setdefault(child.tag.removeprefix(FHIR), []).append(from_xml(child))
    return members


def xml_bundle(jar, name):
    with zipfile.ZipFile(jar) as archive, archive.open(name) as file:
        for entry in ElementTree.parse(file).getroot().findall(f"{FHIR}entry/{FHIR}resource"):
            yield from_xml(entry[0])


def first(value):
    return value[0] if isinstance(value, list) else value


def read_r4(jar, helios):
    folder = "org/hl7/fhir/r4/model/"
    with zipfile.ZipFile(jar) as archive:
        bundle = json.loads(archive.read(folder + "sp/search-parameters.json"))
    structures = [s for name in ("resources", "types") for s in xml_bundle(jar, f"{folder}profile/profiles-{name}.xml")]
    return [entry["resource"] for entry in bundle["entry"]], structures, read_helios(helios / "src/r4.rs")


def read_r4b(jar, helios):
    folder = "org/hl7/fhir/r4b/model/"
    structures = [s for name in ("resources", "types") for s in xml_bundle(jar, f"{folder}profile/profiles-{name}.xml")]
    return list(xml_bundle(jar, folder + "sp/search-parameters.xml")), structures, read_helios(helios / "src/r4b.rs")


def read_r5(jar, _helios):
    parameters, structures, compartments = [], [], {}
    with zipfile.ZipFile(jar) as archive:
        package = archive.read("org/hl7/fhir/r5/packages/hl7.fhir.r5.core-5.0.0.tgz")
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        for member in archive:
            kind = pathlib.PurePath(member.name).name.split("-")[0]
            if not member.isfile() or kind not in ("SearchParameter", "StructureDefinition", "CompartmentDefinition"):
                continue
            resource = json.load(archive.extractfile(member))
            if kind == "SearchParameter":
                parameters.append(resource)
            elif kind == "StructureDefinition":
                structures.append(resource)
            elif resource["url"] == "http://hl7.org/fhir/CompartmentDefinition/" + resource["id"] and resource["id"] != "example":
                of = compartments.setdefault(resource["code"], {})
                for row in resource["resource"]:
                    of[row["code"]] = row.get("param", [])
    return parameters, structures, compartments


def read_helios(source):
    """The two nested `match`es of get_compartment_params: HL7's CompartmentDefinitions as Rust source."""
    text = source.read_text()
    body = text[text.index("pub fn get_compartment_params(") :]
    compartments, now = {}, None
    for name, codes in re.findall(r'"(\w+)" => (?:match resource_type|&\[([^\]]*)\])', body):
        if codes:
            now[name] = re.findall(r'"([^"]+)"', codes)
        else:
            now = compartments.setdefault(name, {})
    return compartments


def alternatives(expression):
    """`a | (b | c)` → [`a`, `(b | c)`]: split where no bracket is open."""
    depth, parts = 0, [""]
    for character in expression:
        depth += (character == "(") - (character == ")")
        if character == "|" and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [" ".join(part.split()) for part in parts]


def of_type(expression, name):
    return [part for part in alternatives(expression) if re.match(r"\(*%s\b" % name, part)]


def choices(structures):
    """`Observation.value` → the types it may have, for each choice element of a resource."""
    found = {}
    for structure in structures:
        if first(structure.get("derivation", "specialization")) != "specialization" or not structure.get("snapshot"):
            continue
        for element in first(structure["snapshot"])["element"]:
            path = first(element["path"])
            if path.endswith("[x]"):
                found[path[:-3]] = sorted({first(kind["code"]) for kind in element["type"]})
    return found


def table(version, parameters, structures, compartments):
    # R5 defines three codes twice: what one leaves out the other says.
    known, owners = {}, {}
    for structure in structures:
        if first(structure.get("kind", "")) == "resource" and first(structure.get("derivation", "specialization")) == "specialization":
            base = first(structure.get("baseDefinition", "")).rpartition("/")[2]
            owners[first(structure["type"])] = None if first(structure["abstract"]) in (True, "true") else base
    for parameter in parameters:
        for base in parameter["base"]:
            code, expression = first(parameter["code"]), first(parameter.get("expression", ""))
            parts = of_type(expression, base) if expression else []
            if expression and not parts:
                print(f"{version}: {base} {code}: no alternative of this type in `{expression}`", file=sys.stderr)
            kind, targets = first(parameter["type"]), sorted(parameter.get("target", []))
            row = (kind, targets, " | ".join(dict.fromkeys(parts)))
            old = known.get((base, code), row)
            if old != row:
                print(f"{version}: {base} {code} twice: {old} and {row}", file=sys.stderr)
            known[base, code] = (kind, sorted({*old[1], *row[1]}), old[2] or row[2])
    choice = choices(structures)
    for base, _ in known:
        if base not in owners:
            print(f"{version}: unknown base {base}", file=sys.stderr)
    types = [name for name, base in owners.items() if base]
    lines = [HEADER.format(version=version)]
    for name in sorted(owners, key=lambda name: (owners[name] is not None, name)):
        rows = {code: row for (base, code), row in known.items() if base == name}
        lines.append(f"type {name} of {owners[name]}\n" if owners[name] else f"abstract {name}\n")
        for path in sorted(choice):
            if any(re.search(re.escape(path) + r"(?![\w(]|\.as\(|\.ofType\(| as )", row[2]) for row in rows.values()):
                lines.append(f"choice {path} {','.join(choice[path])}\n")
        for code in sorted(rows):
            kind, targets, expression = rows[code]
            # HL7 writes "any" out; no instance of Parameters is ever stored, so that R4 leaves it out.
            targets = ["Resource"] if {*types} - {"Parameters"} <= {*targets} else targets
            targets = " " + ",".join(targets) if targets else ""
            lines.append(f"parameter {code} {kind}{targets}" + (f" = {expression}" if expression else "") + "\n")
        for compartment in COMPARTMENTS:
            codes = compartments[compartment].get(name)
            if codes:
                lines.append(f"compartment {compartment} {','.join(codes)}\n")
    return "".join(lines)


def main():
    r4, r4b, r5, helios, out = map(pathlib.Path, sys.argv[1:])
    for name, version, source in (("r4", "4.0.1", read_r4(r4, helios)), ("r4b", "4.3.0", read_r4b(r4b, helios)), ("r5", "5.0.0", read_r5(r5, helios))):
        (out / f"{name}.txt").write_text(table(version, *source))


main()
