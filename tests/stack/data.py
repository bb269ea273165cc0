"""Patients as Synthea makes them, but few: made here, always the same."""

PATIENTS = ["p123", "p456", "p789"]
CONFIDENTIAL = {"system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": "R"}


def resources():
    """In an order in which each comes after what it refers to."""
    yield {"resourceType": "Organization", "id": "org1", "name": "General Hospital"}
    yield {"resourceType": "Practitioner", "id": "doc1", "name": [{"family": "House", "given": ["Gregory"]}]}
    for number, patient in enumerate(PATIENTS):
        subject = {"reference": f"Patient/{patient}"}
        yield {
            "resourceType": "Patient", "id": patient, "gender": ["female", "male", "other"][number], "birthDate": f"19{60 + number}-02-01",
            "name": [{"family": f"Family{number}", "given": ["Ada"]}], "managingOrganization": {"reference": "Organization/org1"},
        }
        for visit in range(2):
            encounter = f"{patient}-e{visit}"
            yield {
                "resourceType": "Encounter", "id": encounter, "status": "finished" if visit else "in-progress", "subject": subject,
                "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"},
                "participant": [{"individual": {"reference": "Practitioner/doc1"}}], "serviceProvider": {"reference": "Organization/org1"},
            }
            yield {
                "resourceType": "Condition", "id": f"{patient}-c{visit}", "subject": subject, "encounter": {"reference": f"Encounter/{encounter}"},
                "code": {"coding": [{"system": "http://snomed.info/sct", "code": ["38341003", "44054006"][visit]}]},
            }
            for count in range(3):
                observation = {
                    "resourceType": "Observation", "id": f"{patient}-o{visit}{count}", "status": "final", "subject": subject,
                    "encounter": {"reference": f"Encounter/{encounter}"}, "performer": [{"reference": "Practitioner/doc1"}],
                    "code": {"coding": [{"system": "http://loinc.org", "code": ["8867-4", "8310-5", "29463-7"][count]}]},
                    "valueQuantity": {"value": 60 + 10 * count + visit, "unit": "1"},
                }
                if (visit, count) == (1, 2):
                    observation["meta"] = {"security": [CONFIDENTIAL]}
                yield observation


def patients_of(resource):
    """The patients whose compartment a resource is in; of what is nobody's: none."""
    if resource["resourceType"] == "Patient":
        return {resource["id"]}
    reference = resource.get("subject", {}).get("reference", "")
    return {reference.rsplit("/", 1)[-1]} if "Patient/" in reference else set()
