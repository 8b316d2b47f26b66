#!/usr/bin/env python3
"""Runs proxies side by side in interleaved rounds and prints how they compare. See README.md."""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from peers import ADDRESS, IP, LOAD_CPU, ORIGIN_PORT, PEERS, PROXY_CPU, run

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
BODY = "x" * 1024
IDLE_CONNECTIONS = 2_000
# Seconds after which what served the last request has been given back, by allocators too (jemalloc's take 10).
SETTLES_WITHIN = 15


class Rig:
    """One peer's pair of network namespaces, with an origin and a proxy in each."""

    # How long it may take to be ready, in seconds.
    patience = 30

    def __init__(self, peer, folder):
        self.peer, self.dir = peer, folder / peer.name
        self.dir.mkdir()
        self.prefix = f"weft-bench-{os.getpid()}-{peer.name}-"
        self.processes, self.proxies = [], {}

    def up(self):
        for side in "ab":
            run("ip", "netns", "add", self.prefix + side)
            run("ip", "-n", self.prefix + side, "link", "set", "lo", "up")
        run("ip", "-n", self.prefix + "a", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", self.prefix + "b")
        for side, ip in IP.items():
            run("ip", "-n", self.prefix + side, "addr", "add", f"{ip}/30", "dev", "eth0")
            run("ip", "-n", self.prefix + side, "link", "set", "eth0", "up")
            run(*self.argv(side, None, ["sysctl", "-qw", "net.ipv4.ip_local_port_range=11000 65000", "net.core.somaxconn=8192"]))
            self.origin(side)
        self.peer.start(self)
        for path, address in ADDRESS.items():
            if path == "bulk":
                continue
            curl = ["curl", "-sf", "-o", "/dev/null", "-m", "2", f"http://{address}/"]
            if path.endswith("h2"):
                curl.insert(1, "--http2-prior-knowledge")
            self.wait(f"{path} of {self.peer.name}", lambda: run(*self.argv("a", LOAD_CPU, curl)) is not None)
        self.peer.ready(self)

    def origin(self, side):
        """nginx that answers everything with 1 KiB, and iperf3 for bulk."""
        config = self.dir / f"origin-{side}.conf"
        answer = f'location / {{ return 200 "{BODY}"; }}'
        config.write_text(f"""
daemon off; worker_processes 1; pid {config}.pid; error_log {config}.err crit;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 1h; client_body_temp_path {config}.body;
  http2_max_concurrent_streams 4096;
  server {{ listen 127.0.0.1:{ORIGIN_PORT["h1"]} backlog=8192; {answer} }}
  server {{ listen 127.0.0.1:{ORIGIN_PORT["h2"]} http2 backlog=8192; {answer} }}
}}""")
        self.spawn(side, LOAD_CPU, ["iperf3", "-s", "-B", "127.0.0.1", "-p", str(ORIGIN_PORT["bulk"])], f"bulk-{side}")
        self.spawn(side, LOAD_CPU, ["nginx", "-c", str(config), "-e", f"{config}.start"], f"origin-{side}")

    def proxy(self, side, argv):
        """Starts the process that is measured."""
        self.proxies[side] = self.spawn(side, self.peer.cpus or PROXY_CPU, argv, f"proxy-{side}")

    def argv(self, side, cpu, argv):
        pin = ["taskset", "-c", cpu] if cpu else []
        return ["ip", "netns", "exec", self.prefix + side, *pin, *argv]

    def spawn(self, side, cpu, argv, log):
        with open(self.dir / f"{log}.log", "ab") as out:
            process = subprocess.Popen(self.argv(side, cpu, argv), stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        self.processes.append(process)
        return process

    def wait(self, what, ready):
        deadline = time.monotonic() + self.patience
        while time.monotonic() < deadline:
            with contextlib.suppress(RuntimeError, subprocess.CalledProcessError):
                if found := ready():
                    return found
            time.sleep(0.1)
        logs = [f"--- {log.name}\n" + log.read_text()[-2000:] for log in self.dir.glob("*.log")]
        raise RuntimeError(f"{what} is not ready after {self.patience} s\n" + "\n".join(logs))

    def load(self, argv, timeout):
        done = subprocess.run(self.argv("a", LOAD_CPU, argv), capture_output=True, text=True, timeout=timeout)
        if done.returncode != 0:
            raise RuntimeError(f"{argv[0]}: {done.stdout[-500:]} {done.stderr[-500:]}")
        return done.stdout

    def pids(self):
        """The proxies and whatever they started."""
        children = collections.defaultdict(list)
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                children[int(stat.read_text().rsplit(")", 1)[1].split()[1])].append(int(stat.parent.name))
        found, todo = [], [process.pid for process in self.proxies.values()]
        while todo:
            found.append(todo.pop())
            todo += children[found[-1]]
        return found

    def cpu_seconds(self):
        stats = [pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in self.pids()]
        return sum(int(stat[11]) + int(stat[12]) for stat in stats) / TICKS_PER_SECOND

    def memory_mib(self):
        """Proportional set size, so that what processes share is counted once."""
        maps = [pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in self.pids()]
        return sum(int(re.search(r"^Pss:\s+(\d+)", text, re.M)[1]) for text in maps) / 1024

    def close(self):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for side in "ab":
            subprocess.run(["ip", "netns", "del", self.prefix + side], capture_output=True)


def flat_out_h1(rig, address, seconds):
    """wrk: 64 connections, each with the next request as soon as it has the answer to the last."""
    return wrk(rig, address, seconds, ["-c64"])


def connections(rig, address, seconds):
    """wrk: 32 clients, each request by a connection of its own."""
    return wrk(rig, address, seconds, ["-c32", "-H", "Connection: close"])


def wrk(rig, address, seconds, options):
    out = rig.load(["wrk", "-t1", f"-d{seconds}s", "--latency", *options, f"http://{address}/"], seconds + 30)
    errors = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    return {
        "amount": int(re.search(r"(\d+) requests in", out)[1]),
        "p50_ms": milliseconds(re.search(r"50%\s+(\S+)", out)[1]),
        "p99_ms": milliseconds(re.search(r"99%\s+(\S+)", out)[1]),
        "errors": (int(errors[1]) if errors else 0) + sum(map(int, re.findall(r"(?:connect|read|write|timeout) (\d+)", out))),
    }


def flat_out_h2(rig, address, seconds):
    """h2load: 10 connections of 32 streams that post 1 KiB and get 1 KiB."""
    return h2load(rig, address, seconds, ["-c10", "-m32"])


def fixed_rate_h1(rig, address, seconds):
    """h2load in HTTP/1.1: 2,000 requests a second over 40 connections, whatever the answers."""
    return h2load(rig, address, seconds, ["--h1", "-c40", "--rps=50"])


def h2load(rig, address, seconds, options):
    body, log = rig.dir / "body", rig.dir / "requests.log"
    body.write_text(BODY)
    log.unlink(missing_ok=True)
    post = [] if "--h1" in options else ["-d", str(body)]
    argv = ["h2load", "-t1", "-D", str(seconds), *options, *post, "--log-file", str(log), f"http://{address}/"]
    rig.load(argv, seconds + 30)
    # Each line: start in microseconds, status, response time in microseconds. Requests under way when the time is up
    # are not among them. A status line without a reason, as HAProxy writes it, is of status 0 to h2load; what failed, -1.
    exchanges = [[int(field) for field in line.split("\t")] for line in log.read_text().splitlines()]
    good = sorted(took for _, status, took in exchanges if status in (0, 200))
    at = lambda share: good[int(len(good) * share)] / 1000 if good else None
    return {"amount": len(good), "p50_ms": at(0.5), "p99_ms": at(0.99), "errors": len(exchanges) - len(good)}


def bulk(streams):
    def load(rig, address, seconds):
        """iperf3, from A to B; the amount is in MB."""
        host, port = address.split(":")
        argv = ["iperf3", "-J", "-c", host, "-p", port, "-t", str(seconds), "-P", str(streams)]
        received = json.loads(rig.load(argv, seconds + 30))["end"]["sum_received"]["bytes"]
        return {"amount": received / 1e6, "errors": 0}

    return load


def idle(rig, address, _seconds):
    """Connections that are kept after one request each; how much memory a thousand of them take."""
    host, port = address.split(":")
    code = f"""if True:
        import socket, sys
        held = []
        for _ in range({IDLE_CONNECTIONS}):
            held.append(connection := socket.create_connection(({host!r}, {port})))
            connection.settimeout(10)
            connection.sendall(b"GET / HTTP/1.1\\r\\nHost: bench\\r\\n\\r\\n")
            answer = b""
            while not answer.endswith({BODY!r}.encode()):
                answer += connection.recv(65536)
        print("held", flush=True)
        sys.stdin.read()"""
    before = rig.memory_mib()
    argv = rig.argv("a", LOAD_CPU, [sys.executable, "-c", code])
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        if client.stdout.readline() != "held\n":
            raise RuntimeError(f"{rig.peer.name} did not answer on {IDLE_CONNECTIONS} connections")
        time.sleep(SETTLES_WITHIN)
        grown = rig.memory_mib() - before
        client.stdin.close()
    return {"amount": IDLE_CONNECTIONS, "rest_mib": before, "idle_mib": grown * 1000 / IDLE_CONNECTIONS, "errors": 0}


def milliseconds(text):
    match = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text)
    return float(match[1]) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60000}[match[2]] if match else None


# What is measured, in which unit, on which path, by which load. Memory comes first, of processes that did nothing yet.
SCENARIOS = {
    "idle": ("two hops, mutual TLS, 2,000 idle HTTP/1.1 connections", "connection", "mesh-h1", idle),
    "hop-h1": ("one hop, plain HTTP/1.1, flat out", "request", "hop-h1", flat_out_h1),
    "hop-h2": ("one hop, plain HTTP/2, flat out", "request", "hop-h2", flat_out_h2),
    "mesh-h1": ("two hops, mutual TLS, HTTP/1.1 client, flat out", "request", "mesh-h1", flat_out_h1),
    "mesh-h2": ("two hops, mutual TLS, HTTP/2 client, flat out", "request", "mesh-h2", flat_out_h2),
    "bytes-h2": ("the same where no rule reads requests: carried as bytes, by Envoy as before", "request", "bytes-h2", flat_out_h2),
    "hop-rate": ("one hop, plain HTTP/1.1, 2,000 requests/s", "request", "hop-h1", fixed_rate_h1),
    "mesh-rate": ("two hops, mutual TLS, HTTP/1.1 client, 2,000 requests/s", "request", "mesh-h1", fixed_rate_h1),
    "connections": ("two hops, mutual TLS, a client connection for each request", "connection", "mesh-h1", connections),
    "handshakes": ("two hops of bytes, a connection with mutual TLS for each request", "connection", "bytes-h1", connections),
    "bulk": ("two hops of bytes, mutual TLS, 1 stream", "MB", "bulk", bulk(1)),
    "bulk-16": ("two hops of bytes, mutual TLS, 16 streams", "MB", "bulk", bulk(16)),
}
# What kinds of weft differ by, each with its own peers: not among the scenarios unless it is named.
OF_KINDS = {
    "signals": ("mesh-h1 with all signals on, and with none", "request", "mesh-h1", flat_out_h1),
}
KINDS = {"signals": ["weft-silent", "weft-signals"]}
ALL = SCENARIOS | OF_KINDS
# Of processes that did nothing before, so measured once.
ONCE = {"idle"}
# Key in a sample, heading, digits.
FIGURES = [
    ("rate", "{unit}s/s", 0),
    ("cpu_us", "CPU µs/{unit}", 1),
    ("p50_ms", "p50 ms", 2),
    ("p99_ms", "p99 ms", 2),
    ("memory", "memory MiB", 0),
    ("rest_mib", "at rest MiB", 0),
    ("idle_mib", "MiB for 1,000", 1),
]


def measure(rig, scenario, seconds):
    _, _, path, load = ALL[scenario]
    cpu = rig.cpu_seconds()
    with rig.peer.meanwhile(rig):
        sample = load(rig, ADDRESS[path], seconds)
    cpu = rig.cpu_seconds() - cpu
    if not sample["amount"]:
        raise RuntimeError(f"{rig.peer.name} answered nothing in {scenario}: {sample}")
    sample |= {"scenario": scenario, "peer": rig.peer.name, "memory": rig.memory_mib()}
    if scenario not in ONCE:
        sample |= {"rate": sample["amount"] / seconds, "cpu_us": cpu / sample["amount"] * 1e6, "cores": cpu / seconds}
    return sample


def bench(options):
    samples, rigs = [], []
    folder = pathlib.Path(tempfile.mkdtemp(prefix="weft-bench-"))
    folder.chmod(0o755)  # nginx's worker is not root
    try:
        scenarios = {name: KINDS.get(name) or options.peers.split(",") for name in options.scenarios.split(",")}
        for name in dict.fromkeys(peer for peers in scenarios.values() for peer in peers):
            peer = PEERS[name]()
            peer.check()
            rigs.append(rig := Rig(peer, folder))
            rig.up()
            print(f"{name} {peer.version()}", file=sys.stderr)
        for scenario, peers in scenarios.items():
            here = [rig for rig in rigs if rig.peer.name in peers]
            for number in range(1 if scenario in ONCE else options.rounds):
                # Taking turns at going first, so that nobody always meets another's leftovers.
                for rig in here if number % 2 == 0 else reversed(here):
                    sample = measure(rig, scenario, options.seconds) | {"round": number}
                    samples.append(sample)
                    print(f"{scenario:11} round {number + 1}  {rig.peer.name:13} {line(sample)}", file=sys.stderr, flush=True)
    finally:
        for rig in rigs:
            rig.close()
        shutil.rmtree(folder)
    return samples


def heading(title, scenario):
    unit = ALL[scenario][1]
    return title.format(unit=unit).replace("MBs", "MB")


def line(sample):
    figures = [f"{heading(title, sample['scenario'])} {show(sample[key], digits)}" for key, title, digits in FIGURES if key in sample]
    return "  ".join([*figures, f"cores {show(sample.get('cores'), 2)}", f"errors {sample['errors']}"])


def report(samples):
    """For each scenario a table: medians of the rounds, and in bold the median of each round's ratio to the peer's base."""
    for scenario in dict.fromkeys(sample["scenario"] for sample in samples):
        here = [sample for sample in samples if sample["scenario"] == scenario]
        by_peer = collections.defaultdict(dict)
        for sample in here:
            by_peer[sample["peer"]][sample["round"]] = sample
        figures = [figure for figure in FIGURES if any(sample.get(figure[0]) is not None for sample in here)]
        print(f"\n{scenario}: {ALL[scenario][0]}\n")
        print("| peer | " + " | ".join(heading(title, scenario) for _, title, _ in figures) + " | errors |")
        print("|---" * (2 + len(figures)) + "|")
        for name, rounds in by_peer.items():
            base = by_peer.get(PEERS[name].base, {}) if PEERS[name].base != name else {}
            cells = [name]
            for key, _, digits in figures:
                cell = show(median(sample.get(key) for sample in rounds.values()), digits)
                ratios = [rounds[r][key] / base[r][key] for r in rounds.keys() & base.keys() if rounds[r].get(key) and base[r].get(key)]
                cells.append(cell + (f" **{median(ratios):.2f}**" if ratios else ""))
            print("| " + " | ".join([*cells, str(sum(sample["errors"] for sample in rounds.values()))]) + " |")
    print("\nBold: the ratio to Envoy, or of a kind of weft to weft, per round, then the median.")


def median(values):
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def show(value, digits):
    return "-" if value is None else f"{value:.{digits}f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenarios", default=",".join(SCENARIOS), help="of " + ", ".join(ALL))
    parser.add_argument("--peers", default="envoy,haproxy,weft", help="of " + ", ".join(PEERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement")
    parser.add_argument("--out", type=pathlib.Path, help="also write every sample here, as JSON")
    parser.add_argument("--smoke", action="store_true", help="one round of a second each: shows that it runs, measures nothing")
    options = parser.parse_args()
    for given, known in ((options.peers, PEERS), (options.scenarios, ALL)):
        if unknown := [name for name in given.split(",") if name not in known]:
            parser.error(f"{', '.join(unknown)}: there are {', '.join(known)}")
    if options.smoke:
        options.rounds, options.seconds = 1, 1
    if os.geteuid() != 0:
        sys.exit("make bench wants root: it makes network namespaces")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that `finally` removes what was made
    with contextlib.suppress(OSError):
        os.setsid()  # a scheduler group of its own
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        samples = bench(options)
    except RuntimeError as error:
        sys.exit(f"bench: {error}")
    if options.out:
        options.out.write_text(json.dumps(samples, indent=1))
    report(samples)
    if options.smoke and any(sample["errors"] for sample in samples if PEERS[sample["peer"]].must_not_fail):
        sys.exit("bench: requests failed")


if __name__ == "__main__":
    main()
