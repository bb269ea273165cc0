"""The real proxies, started on loopback with the configurations of docs/proxies."""

import os
import pathlib
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port):
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"nothing listens on {port}")


def nginx(folder, upstream, decides, port):
    text = (ROOT / "docs/proxies/nginx.conf").read_text()
    text = text.replace("127.0.0.1:8081", f"127.0.0.1:{port}").replace("127.0.0.1:8080", f"127.0.0.1:{upstream}")
    text = text.replace("127.0.0.1:8180", f"127.0.0.1:{decides}")
    temporary = "".join(f"{name}_temp_path {folder}/{name};" for name in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"])
    whole = f"daemon off; error_log {folder}/error.log; pid {folder}/pid;\nevents {{}}\nhttp {{ access_log off; {temporary}\n{text}}}\n"
    (folder / "nginx.conf").write_text(whole)
    return subprocess.Popen(["nginx", "-c", folder / "nginx.conf", "-e", folder / "error.log"])


def caddy(folder, upstream, decides, port):
    text = (ROOT / "docs/proxies/Caddyfile").read_text()
    text = text.replace("127.0.0.1:8082", f"127.0.0.1:{port}").replace("127.0.0.1:8080", f"127.0.0.1:{upstream}")
    text = text.replace("127.0.0.1:8180", f"127.0.0.1:{decides}")
    (folder / "Caddyfile").write_text("{\n\tadmin off\n\tauto_https off\n}\n" + text)
    environment = {**os.environ, "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    command = ["caddy", "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]
    return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)


def envoy(name):
    def make(folder, upstream, decides, port):
        text = (ROOT / f"docs/proxies/{name}.yaml").read_text()
        listens = {"envoy-http": 8085, "envoy-grpc": 8083, "envoy-ext-proc": 8084}[name]
        for known, ours in [(listens, port), (8080, upstream), (8180, decides)]:
            text = text.replace(f"port_value: {known} ", f"port_value: {ours} ")
        (folder / f"{name}.yaml").write_text(text)
        command = ["envoy", "-c", folder / f"{name}.yaml", "--disable-hot-restart", "--log-level", "error", "--concurrency", "2"]
        return subprocess.Popen(command)
    return make


# by name: how it is started, and which headers it sets
PROXIES = {
    "nginx": (nginx, "X-Original"),
    "caddy": (caddy, "X-Forwarded"),
    "envoy-http": (envoy("envoy-http"), None),
    "envoy-grpc": (envoy("envoy-grpc"), None),
    "envoy-ext-proc": (envoy("envoy-ext-proc"), None),
}


def said(original):
    """What cedarward.yaml says of a proxy."""
    headers = f"original: {original}, " if original else ""
    return f"{{ {headers}path: /fhir, enforces: [filter] }}"
