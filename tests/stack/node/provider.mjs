// An OpenID provider with issuers of several shapes: node provider.mjs PORT
// Below /tenant/v2.0 as Entra issues tokens, below /smart as SMART's authorization servers do, below /stranger as nobody trusts.
import { generateKeyPairSync, randomUUID } from "node:crypto";
import http from "node:http";
import Provider from "oidc-provider";

const port = Number(process.argv[2]);
const base = `http://127.0.0.1:${port}`;
const entra = (roles) => (id) => ({ tid: "tenant", oid: id, roles, ver: "2.0" });
const smart = (claims) => () => claims;
const OF_CLIENT = {
  reader: entra(["FHIR Data Reader"]),
  writer: entra(["FHIR Data Writer"]),
  backend: smart({}),
  app: smart({ patient: "p123", fhirUser: "Patient/p123" }),
  keeper: smart({ patient: "p123", fhirUser: "Patient/p123" }),
  brief: entra(["FHIR Data Reader"]),
};

function provider(issuer) {
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const jwk = { ...privateKey.export({ format: "jwk" }), kid: randomUUID(), alg: "RS256", use: "sig" };
  const machine = (client_id) => ({
    client_id, client_secret: "secret", grant_types: ["client_credentials"], redirect_uris: [], response_types: [],
    token_endpoint_auth_method: "client_secret_post",
  });
  const server = new Provider(issuer, {
    clients: [
      ...["reader", "writer", "backend", "brief"].map(machine),
      ...["app", "keeper"].map((client_id) => ({
        client_id, token_endpoint_auth_method: "none", application_type: "native",
        redirect_uris: ["http://127.0.0.1/callback"], response_types: ["code"], grant_types: ["authorization_code"],
      })),
    ],
    jwks: { keys: [jwk] },
    pkce: { required: () => true },
    cookies: { keys: [randomUUID()] },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    extraTokenClaims: (_, token) => OF_CLIENT[token.clientId](token.accountId ?? token.clientId),
    ttl: { ClientCredentials: (_, token) => (token.clientId === "brief" ? 1 : 600), AccessToken: 600, Grant: 600, Session: 600, Interaction: 600, IdToken: 600 },
    interactions: { url: (_, interaction) => `${new URL(issuer).pathname}/interaction/${interaction.uid}` },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => "api://fhir",
        useGrantedResource: () => true,
        getResourceServerInfo: (_, resource) => ({
          scope: "patient/*.rs patient/*.cruds system/*.rs", audience: resource, accessTokenFormat: "jwt", jwt: { sign: { alg: "RS256" } },
        }),
      },
    },
  });
  // whoever comes is patient p123, and agrees
  const interact = async (request, response) => {
    const { params } = await server.interactionDetails(request, response);
    const grant = new server.Grant({ accountId: "p123", clientId: params.client_id });
    grant.addOIDCScope("openid");
    grant.addResourceScope("api://fhir", params.scope.replace("openid ", ""));
    const result = { login: { accountId: "p123" }, consent: { grantId: await grant.save() } };
    await server.interactionFinished(request, response, result, { mergeWithLastSubmission: false });
  };
  return { path: new URL(issuer).pathname, callback: server.callback(), interact };
}

const providers = ["/tenant/v2.0", "/smart", "/stranger"].map((path) => provider(base + path));
const server = http.createServer((request, response) => {
  const found = providers.find(({ path }) => request.url.startsWith(`${path}/`));
  if (!found) return response.writeHead(404).end();
  request.originalUrl = request.url;
  if (request.url.startsWith(`${found.path}/interaction/`)) {
    return found.interact(request, response).catch((error) => response.writeHead(500).end(String(error)));
  }
  request.url = request.url.slice(found.path.length);
  request.baseUrl = found.path;
  found.callback(request, response);
});
server.listen(port, "127.0.0.1", () => console.log("ready"));
