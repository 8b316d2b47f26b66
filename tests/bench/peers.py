"""The two data planes. Each is a process on side A, next to the client, and one on side B, next to the origin."""

import json
import os
import pathlib
import shutil
import subprocess

# The range set aside for benchmarks of network devices (RFC 2544); it exists only inside our namespaces.
IP = {"a": "198.18.0.1", "b": "198.18.0.2"}

# Where the client connects, always on A's loopback:
#   hop-h1, hop-h2    client -> A -> origin beside A, in the clear
#   mesh-h1, mesh-h2  client -> A -> mutual TLS -> B -> origin beside B
ADDRESS = {"hop-h1": "127.0.0.1:10010", "hop-h2": "127.0.0.1:10011", "mesh-h1": "127.0.0.1:10020", "mesh-h2": "127.0.0.1:10021"}
ORIGIN_PORT = {"h1": 9000, "h2": 9001}


class Envoy:
    """Envoy by hand-written static configuration: no filter but the router, no access log, HTTP/2 between the two."""

    name = "envoy"

    def __init__(self):
        self.binary = os.environ.get("ENVOY_BIN") or shutil.which("envoy")

    def version(self):
        return subprocess.run([self.binary, "--version"], capture_output=True, text=True).stdout.strip().split("/")[-4]

    def start(self, rig):
        make_certificates(rig.dir)
        for side in "ba":
            config = rig.dir / f"{side}.json"
            config.write_text(json.dumps({"static_resources": getattr(self, f"side_{side}")(rig.dir)}))
            rig.proxy(side, [self.binary, "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "error"])

    def side_a(self, certs):
        return {
            "listeners": [listener(address, path) for path, address in ADDRESS.items()],
            "clusters": [
                cluster("hop-h1", "127.0.0.1", ORIGIN_PORT["h1"]),
                cluster("hop-h2", "127.0.0.1", ORIGIN_PORT["h2"], http2=True),
                cluster("mesh-h1", IP["b"], 15443, http2=True, tls=tls(certs, "a")),
                cluster("mesh-h2", IP["b"], 15444, http2=True, tls=tls(certs, "a")),
            ],
        }

    def side_b(self, certs):
        return {
            "listeners": [
                listener(f"{IP['b']}:15443", "origin-h1", tls=tls(certs, "b", server=True)),
                listener(f"{IP['b']}:15444", "origin-h2", tls=tls(certs, "b", server=True)),
            ],
            "clusters": [
                cluster("origin-h1", "127.0.0.1", ORIGIN_PORT["h1"]),
                cluster("origin-h2", "127.0.0.1", ORIGIN_PORT["h2"], http2=True),
            ],
        }


def typed(kind, **fields):
    return {"@type": f"type.googleapis.com/envoy.{kind}", **fields}


def socket_address(host, port):
    return {"socket_address": {"address": host, "port_value": port}}


def listener(address, cluster_name, tls=None):
    host, port = address.split(":")
    route = {"match": {"prefix": "/"}, "route": {"cluster": cluster_name}}
    manager = typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=cluster_name,
        http_filters=[{"name": "router", "typed_config": typed("extensions.filters.http.router.v3.Router")}],
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    )
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    if tls:
        chain["transport_socket"] = tls
    return {"name": address, "address": socket_address(host, int(port)), "filter_chains": [chain]}


def cluster(name, host, port, http2=False, tls=None):
    unlimited = {"max_connections": 1_000_000, "max_pending_requests": 1_000_000, "max_requests": 1_000_000}
    endpoint = {"endpoint": {"address": socket_address(host, port)}}
    made = {
        "name": name,
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [unlimited]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    if http2:
        kind = "extensions.upstreams.http.v3.HttpProtocolOptions"
        options = typed(kind, explicit_http_config={"http2_protocol_options": {}})
        made["typed_extension_protocol_options"] = {f"envoy.{kind}": options}
    if tls:
        made["transport_socket"] = tls
    return made


def tls(certs, side, server=False):
    file = lambda name: {"filename": f"{certs}/{name}"}
    san = {"san_type": "URI", "matcher": {"prefix": "spiffe://bench/"}}
    common = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [{"certificate_chain": file(f"{side}.crt"), "private_key": file(f"{side}.key")}],
        "validation_context": {"trusted_ca": file("ca.crt"), "match_typed_subject_alt_names": [san]},
        "alpn_protocols": ["h2"],
    }
    if server:
        context = typed("extensions.transport_sockets.tls.v3.DownstreamTlsContext", require_client_certificate=True)
    else:
        context = typed("extensions.transport_sockets.tls.v3.UpstreamTlsContext", sni="b.bench")
    return {"name": "tls", "typed_config": {**context, "common_tls_context": common}}


def make_certificates(folder):
    """A root and a P-256 certificate for each side, with SPIFFE ids, as weft's own."""

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=bench")
    for side in "ab":
        (folder / "extensions").write_text(
            f"subjectAltName=DNS:{side}.bench,URI:spiffe://bench/{side}\nextendedKeyUsage=serverAuth,clientAuth\n"
        )
        openssl("req", "-new", *new_key, "-keyout", f"{side}.key", "-out", "csr", "-subj", f"/CN={side}.bench")
        openssl("x509", "-req", "-in", "csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-out", f"{side}.crt",
                "-days", "2", "-extfile", "extensions")


class Weft:
    """A mesh of two nodes as users set it up, metrics and all, but for the access log, which Envoy has off too."""

    name = "weft"

    def __init__(self):
        here = pathlib.Path(__file__).resolve().parents[2]
        binary = pathlib.Path(os.environ.get("WEFT_BIN") or here / "target/release/weft")
        self.binary = str(binary) if binary.exists() else None

    def version(self):
        return subprocess.run([self.binary, "version"], capture_output=True, text=True).stdout.split()[-1]

    def start(self, rig):
        self.weft(rig, "a", "init", "--name", "a", "--advertise", IP["a"])
        self.configure(rig, "a", services=["near-h1", "near-h2"], listeners=[
            ("hop-h1", "near-h1"), ("hop-h2", "near-h2"), ("mesh-h1", "far-h1"), ("mesh-h2", "far-h2")])
        self.up(rig, "a")
        token = self.weft(rig, "a", "token", "create", "--allow", "default/*").strip()
        self.weft(rig, "b", "join", f"{IP['a']}:15008", "--token", token, "--name", "b", "--advertise", IP["b"])
        self.configure(rig, "b", services=["far-h1", "far-h2"], listeners=[])
        self.up(rig, "b")

    def configure(self, rig, side, services, listeners):
        lines = ["workers: 1", "accessLog: off", "logs: {level: warn}", "services:"]
        for name in services:
            port = ORIGIN_PORT[name[-2:]]
            protocol = "http2" if name.endswith("h2") else "http"
            lines.append(f"  - {{name: {name}, port: {port}, protocol: {protocol}}}")
        if listeners:
            lines.append("listeners:")
        for path, name in listeners:
            port = ORIGIN_PORT[name[-2:]]
            lines.append(f'  - {{listen: "{ADDRESS[path]}", service: {name}.default, port: {port}}}')
        with open(rig.dir / side / "node.yaml", "a") as file:
            file.write("\n" + "\n".join(lines) + "\n")

    def up(self, rig, side):
        rig.proxy(side, [self.binary, "up", "--dir", str(rig.dir / side)])
        rig.wait(f"weft on {side}", lambda: json.loads(self.weft(rig, side, "status", "-o", "json"))["ready"])

    def weft(self, rig, side, *arguments):
        argv = rig.argv(side, None, [self.binary, *arguments, "--dir", str(rig.dir / side)])
        done = subprocess.run(argv, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"weft {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout


PEERS = [Envoy, Weft]
