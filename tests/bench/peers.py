"""The data planes. Each is a process on side A, next to the client, and one on side B, next to the origin."""

import concurrent.futures
import contextlib
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import threading

PROXY_CPU, LOAD_CPU = os.environ.get("PROXY_CPU", "0"), os.environ.get("LOAD_CPU", "1")
# The range set aside for benchmarks of network devices (RFC 2544); it exists only inside our namespaces.
IP = {"a": "198.18.0.1", "b": "198.18.0.2"}

# Where the client connects, always on A's loopback:
#   hop-h1, hop-h2    client -> A -> origin beside A, in the clear
#   mesh-h1, mesh-h2  client -> A -> mutual TLS -> B -> origin beside B
#   bytes-h1, bulk    the same for bytes that nobody reads
#   bytes-h2          as mesh-h2; as bytes, where a proxy can choose that
ADDRESS = {
    "hop-h1": "127.0.0.1:10010",
    "hop-h2": "127.0.0.1:10011",
    "mesh-h1": "127.0.0.1:10020",
    "mesh-h2": "127.0.0.1:10021",
    "bytes-h1": "127.0.0.1:10030",
    "bytes-h2": "127.0.0.1:10031",
    "bulk": "127.0.0.1:10032",
}
# Where the origins listen on the loopback of each side.
ORIGIN_PORT = {"h1": 9000, "h2": 9001, "bulk": 9002}
# Where B listens for A, by the origin behind it and whether requests are read.
B_PORT = {"h1": 15443, "h2": 15444, "bytes-h1": 15445, "bulk": 15446}


def run(*argv, **options):
    return subprocess.run(argv, check=True, capture_output=True, text=True, **options).stdout


class Peer:
    name = None
    # Where its binary comes from.
    hint = None
    # Whose figures its own are divided by.
    base = "envoy"
    # Whether a failed request of its own makes a smoke run fail.
    must_not_fail = True
    # Cores for its proxies, if not the usual one.
    cpus = None
    binary = None

    def check(self):
        if not self.binary:
            raise RuntimeError(f"{self.name} was not found: {self.hint}")

    def ready(self, rig):
        """Does what is to be done before anything is measured, once it serves."""

    def meanwhile(self, rig):
        """What goes on during a measurement."""
        return contextlib.nullcontext()


class Envoy(Peer):
    """Envoy by hand-written static configuration: no filter but the router, no access log, HTTP/2 between the two."""

    name, hint = "envoy", "`make bench` sets it up, or set ENVOY_BIN"

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
        def far(name, http2):
            return cluster(name, IP["b"], B_PORT[name.removeprefix("mesh-")], http2=http2, tls=tls(certs, "a", "h2" if http2 else "bytes"))

        served_by = {"bytes-h2": "mesh-h2"}
        return {
            "listeners": [
                listener(address, served_by.get(path, path), is_http=path not in ("bytes-h1", "bulk"))
                for path, address in ADDRESS.items()
            ],
            "clusters": [
                cluster("hop-h1", "127.0.0.1", ORIGIN_PORT["h1"]),
                cluster("hop-h2", "127.0.0.1", ORIGIN_PORT["h2"], http2=True),
                *(far(name, http2=True) for name in ("mesh-h1", "mesh-h2")),
                *(far(name, http2=False) for name in ("bytes-h1", "bulk")),
            ],
        }

    def side_b(self, certs):
        def near(name, origin):
            is_http = name in ("h1", "h2")
            context = tls(certs, "b", "h2" if is_http else "bytes", server=True)
            return listener(f"{IP['b']}:{B_PORT[name]}", f"origin-{origin}", is_http=is_http, tls=context)

        return {
            "listeners": [near("h1", "h1"), near("h2", "h2"), near("bytes-h1", "h1"), near("bulk", "bulk")],
            "clusters": [cluster(f"origin-{name}", "127.0.0.1", port, http2=name == "h2") for name, port in ORIGIN_PORT.items()],
        }


def typed(kind, **fields):
    return {"@type": f"type.googleapis.com/envoy.{kind}", **fields}


def socket_address(host, port):
    return {"socket_address": {"address": host, "port_value": port}}


def listener(address, cluster_name, is_http=True, tls=None):
    host, port = address.split(":")
    if is_http:
        route = {"match": {"prefix": "/"}, "route": {"cluster": cluster_name}}
        served = typed(
            "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            stat_prefix=cluster_name,
            http_filters=[{"name": "router", "typed_config": typed("extensions.filters.http.router.v3.Router")}],
            route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        )
    else:
        served = typed("extensions.filters.network.tcp_proxy.v3.TcpProxy", stat_prefix=cluster_name, cluster=cluster_name)
    chain = {"filters": [{"name": "served", "typed_config": served}]}
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


def tls(certs, side, alpn, server=False):
    file = lambda name: {"filename": f"{certs}/{name}"}
    san = {"san_type": "URI", "matcher": {"prefix": "spiffe://bench/"}}
    common = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [{"certificate_chain": file(f"{side}.crt"), "private_key": file(f"{side}.key")}],
        "validation_context": {"trusted_ca": file("ca.crt"), "match_typed_subject_alt_names": [san]},
        "alpn_protocols": [alpn],
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


class Haproxy(Peer):
    """HAProxy: HTTP/2 and any connection for any request between the two, as fast as it gets."""

    name, hint = "haproxy", "apt-get install haproxy, or set HAPROXY_BIN"
    # nginx answers a POST before it has read the body, and of such streams HAProxy resets some.
    must_not_fail = False

    def __init__(self):
        self.binary = os.environ.get("HAPROXY_BIN") or shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")

    def version(self):
        return run(self.binary, "-v").split()[2]

    def start(self, rig):
        make_certificates(rig.dir)
        for side in "ba":
            pair = "".join((rig.dir / f"{side}.{part}").read_text() for part in ("crt", "key"))
            (rig.dir / f"{side}.pem").write_text(pair)
            config = rig.dir / f"{side}.cfg"
            config.write_text("\n".join(["global", "nbthread 1", "maxconn 8000", "defaults", "timeout connect 5s",
                                         "timeout client 1h", "timeout server 1h", *getattr(self, f"side_{side}")(rig.dir)]) + "\n")
            rig.proxy(side, [self.binary, "-db", "-f", str(config)])

    def side_a(self, certs):
        to_b = f"ssl crt {certs}/a.pem ca-file {certs}/ca.crt verify required sni str(b.bench) verifyhost b.bench"
        for path, address in ADDRESS.items():
            near, name = path.startswith("hop-"), path.split("-")[-1]
            is_http = path not in ("bytes-h1", "bulk")
            server = f"127.0.0.1:{ORIGIN_PORT[name]}" if near else f"{IP['b']}:{B_PORT[name if is_http else path]}"
            options = (" proto h2" if name == "h2" else "") if near else f" {to_b}" + (" alpn h2" if is_http else "")
            yield from self.proxied(path, is_http, address + (" proto h2" if name == "h2" else ""), server + options)

    def side_b(self, certs):
        tls = f"ssl crt {certs}/b.pem ca-file {certs}/ca.crt verify required"
        for name, port in B_PORT.items():
            origin, is_http = name.removeprefix("bytes-"), name in ("h1", "h2")
            server = f"127.0.0.1:{ORIGIN_PORT[origin]}" + (" proto h2" if name == "h2" else "")
            yield from self.proxied(name, is_http, f"{IP['b']}:{port} {tls}" + (" alpn h2" if is_http else ""), server)

    @staticmethod
    def proxied(name, is_http, bind, server):
        mode = "mode http" if is_http else "mode tcp"
        yield from (f"frontend in-{name}", mode, f"bind {bind}", f"default_backend to-{name}", f"backend to-{name}", mode)
        if is_http:
            yield "http-reuse always"
        yield f"server one {server}"


class Weft(Peer):
    """A mesh of two nodes as users set it up: metrics, routes with deadlines and retries, an authorization policy of ten
    rules. The access log is off, as it is with the others."""

    name, hint = "weft", "`make build` builds it, or set WEFT_BIN"
    workers = 1

    def __init__(self):
        here = pathlib.Path(__file__).resolve().parents[2]
        binary = pathlib.Path(os.environ.get("WEFT_BIN") or here / "target/release/weft")
        self.binary = str(binary) if binary.exists() else None

    def version(self):
        return run(self.binary, "version").split()[-1]

    def start(self, rig):
        self.weft(rig, "a", "init", "--name", "a", "--advertise", IP["a"])
        far = {path: f"far-{path.removeprefix('mesh-')}" for path in ADDRESS if not path.startswith("hop-")}
        near = {path: f"near-{path.removeprefix('hop-')}" for path in ADDRESS if path.startswith("hop-")}
        self.configure(rig, "a", services=near.values(), listeners=near | far)
        self.up(rig, "a")
        token = self.weft(rig, "a", "token", "create", "--allow", "default/*").strip()
        self.weft(rig, "b", "join", f"{IP['a']}:15008", "--token", token, "--name", "b", "--advertise", IP["b"])
        self.configure(rig, "b", services=far.values(), listeners={})
        self.up(rig, "b")
        documents = [document for name in ("near-h1", "near-h2", "far-h1", "far-h2") for document in policies(name)]
        self.apply(rig, documents)

    def configure(self, rig, side, services, listeners):
        lines = [f"workers: {self.workers}", "logs: {level: warn}", *self.lines(rig, side), "services:"]
        origin = lambda name: ORIGIN_PORT[name.split("-")[-1]]
        for name in services:
            protocol = {"h1": "http", "h2": "http2"}.get(name.removeprefix("near-").removeprefix("far-"), "tcp")
            lines.append(f"  - {{name: {name}, port: {origin(name)}, protocol: {protocol}}}")
        if listeners:
            lines.append("listeners:")
        for path, name in listeners.items():
            protocol = "tcp" if path.startswith("b") else "http"
            lines.append(f'  - {{listen: "{ADDRESS[path]}", service: {name}.default, port: {origin(name)}, protocol: {protocol}}}')
        with open(rig.dir / side / "node.yaml", "a") as file:
            file.write("\n" + "\n".join(lines) + "\n")

    def lines(self, rig, side):
        """Lines of node.yaml that kinds of weft differ by."""
        return ["accessLog: off"]

    def up(self, rig, side):
        rig.proxy(side, [self.binary, "up", "--dir", str(rig.dir / side)])
        rig.wait(f"weft on {side}", lambda: json.loads(self.weft(rig, side, "status", "-o", "json"))["ready"])

    def apply(self, rig, documents):
        # JSON is YAML.
        self.weft(rig, "a", "apply", "-f", "-", input="\n---\n".join(map(json.dumps, documents)))

    def weft(self, rig, side, *arguments, **options):
        argv = rig.argv(side, LOAD_CPU, [self.binary, *arguments, "--dir", str(rig.dir / side)])
        done = subprocess.run(argv, capture_output=True, text=True, **options)
        if done.returncode != 0:
            raise RuntimeError(f"weft {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout


def policies(service):
    """A route with a deadline and retries, and ten rules of which the last lets the caller in."""
    version = "networking.istio.io/v1"
    others = [
        {
            "from": [{"source": {"principals": [f"cluster.local/ns/other/sa/caller-{n}"]}}],
            "to": [{"operation": {"methods": ["GET"], "paths": [f"/v{n}/*"]}}],
        }
        for n in range(9)
    ]
    ours = {"from": [{"source": {"namespaces": ["default"]}}], "to": [{"operation": {"methods": ["GET", "POST", "HEAD"]}}]}
    yield {
        "apiVersion": version,
        "kind": "VirtualService",
        "metadata": {"name": service},
        "spec": {
            "hosts": [service],
            "http": [{
                "timeout": "15s",
                "retries": {"attempts": 2, "retryOn": "connect-failure,refused-stream,503"},
                "route": [{"destination": {"host": service}}],
            }],
        },
    }
    yield {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": service},
        "spec": {"selector": {"matchLabels": {"app": service}}, "action": "ALLOW", "rules": [*others, ours]},
    }


class WeftGrown(Weft):
    """The same in a mesh that knows 1,000 services with 5,000 endpoints."""

    name, base = "weft-grown", "weft"

    def ready(self, rig):
        for hundred in range(10):
            self.apply(rig, [service_entry(100 * hundred + n) for n in range(100)])
        known = lambda side: json.loads(self.weft(rig, side, "status", "-o", "json"))["documents"]
        rig.wait("the documents on b", lambda: known("b") == known("a"))


def service_entry(n):
    endpoints = [{"address": f"203.0.{n // 250}.{n % 250 + 1}", "ports": {"http": 8000 + i}} for i in range(5)]
    ports = [{"number": 80, "name": "http", "protocol": "HTTP"}]
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": f"outside-{n}"},
        "spec": {"hosts": [f"outside-{n}.example"], "ports": ports, "resolution": "STATIC", "endpoints": endpoints},
    }


class WeftChanging(Weft):
    """The same while its documents change ten times a second."""

    name, base = "weft-changing", "weft"

    @contextlib.contextmanager
    def meanwhile(self, rig):
        over = threading.Event()

        def change():
            for n in itertools.count():
                if over.wait(0.1):
                    return
                self.apply(rig, [service_entry(n % 100) | {"metadata": {"name": "changing"}}])

        with concurrent.futures.ThreadPoolExecutor() as pool:
            changes = pool.submit(change)
            try:
                yield
            finally:
                over.set()
            changes.result()  # or what went wrong


class WeftTwoWorkers(Weft):
    """The same with two data threads, on two cores that nobody else uses."""

    name, base, workers, cpus = "weft-2", "weft", 2, "2,3"

    def check(self):
        super().check()
        if len(os.sched_getaffinity(0)) < 4:
            raise RuntimeError("weft-2 wants four cores: two for the proxies, one for the load, one for its peer")


class WeftSilent(Weft):
    """The same that tells nobody anything but its metrics: no access log, no traces, no trace headers."""

    name, base = "weft-silent", "weft"
    tracing = {"disableSpanReporting": True, "disableContextPropagation": True}

    def ready(self, rig):
        self.apply(rig, [telemetry(self.tracing)])
        applied = lambda side: json.loads(self.weft(rig, side, "status", "-o", "json"))["documents_digest"]
        rig.wait("the Telemetry on b", lambda: applied("b") == applied("a"))


class WeftSignals(WeftSilent):
    """The same with all signals on: 1 % of the requests traced, the rest looked at for failures and the slowest, an access
    log in a file, and both nodes scraped each second."""

    name, base = "weft-signals", "weft-silent"
    tracing = {"randomSamplingPercentage": 1}

    def lines(self, rig, side):
        return ["accessLog: text", f"accessLogTo: {rig.dir / side}.access.log"]

    @contextlib.contextmanager
    def meanwhile(self, rig):
        over = threading.Event()

        def scrape():
            while not over.wait(1):
                for side in "ab":
                    curl = ["curl", "-sf", "-o", "/dev/null", "-m", "5", "http://127.0.0.1:15000/metrics"]
                    run(*rig.argv(side, LOAD_CPU, curl))

        with concurrent.futures.ThreadPoolExecutor() as pool:
            scrapes = pool.submit(scrape)
            try:
                yield
            finally:
                over.set()
            scrapes.result()  # or what went wrong


def telemetry(tracing):
    return {
        "apiVersion": "telemetry.istio.io/v1",
        "kind": "Telemetry",
        "metadata": {"name": "bench", "namespace": "istio-system"},
        "spec": {"tracing": [tracing]},
    }


PEERS = {
    peer.name: peer
    for peer in (Envoy, Haproxy, Weft, WeftGrown, WeftChanging, WeftTwoWorkers, WeftSilent, WeftSignals)
}
