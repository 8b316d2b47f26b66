#!/usr/bin/env python3
"""Runs weft and Envoy side by side in interleaved rounds and prints how they compare. See README.md."""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from peers import ADDRESS, IP, ORIGIN_PORT, PEERS

PROXY_CPU, LOAD_CPU = os.environ.get("PROXY_CPU", "0"), os.environ.get("LOAD_CPU", "1")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
BODY = "x" * 1024


class Rig:
    """One peer's pair of network namespaces, with an origin and a proxy in each."""

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
            curl = ["curl", "-sf", "-o", "/dev/null", "-m", "2", f"http://{address}/"]
            if path.endswith("h2"):
                curl.insert(1, "--http2-prior-knowledge")
            self.wait(f"{path} of {self.peer.name}", lambda: run(*self.argv("a", LOAD_CPU, curl)) is not None)

    def origin(self, side):
        """nginx that answers everything with 1 KiB."""
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
        self.spawn(side, LOAD_CPU, ["nginx", "-c", str(config), "-e", f"{config}.start"], f"origin-{side}")

    def proxy(self, side, argv):
        """Starts the process that is measured."""
        self.proxies[side] = self.spawn(side, PROXY_CPU, argv, f"proxy-{side}")

    def argv(self, side, cpu, argv):
        pin = ["taskset", "-c", cpu] if cpu else []
        return ["ip", "netns", "exec", self.prefix + side, *pin, *argv]

    def spawn(self, side, cpu, argv, log):
        with open(self.dir / f"{log}.log", "ab") as out:
            process = subprocess.Popen(self.argv(side, cpu, argv), stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        self.processes.append(process)
        return process

    def wait(self, what, ready):
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(RuntimeError, subprocess.CalledProcessError):
                if ready():
                    return
            time.sleep(0.1)
        logs = [f"--- {log.name}\n" + log.read_text()[-2000:] for log in self.dir.glob("*.log")]
        raise RuntimeError(f"{what} is not ready after 30 s\n" + "\n".join(logs))

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


def run(*argv):
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def flat_out_h1(rig, address, seconds):
    """wrk: 64 connections, each with the next request as soon as it has the answer to the last."""
    out = rig.load(["wrk", "-t1", "-c64", f"-d{seconds}s", "--latency", f"http://{address}/"], seconds + 30)
    errors = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    return {
        "requests": int(re.search(r"(\d+) requests in", out)[1]),
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
    out = rig.load(argv, seconds + 30)
    codes = [int(code) for code in re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", out).groups()]
    # Each line: start in microseconds, status, response time in microseconds.
    times = sorted(int(line.split("\t")[2]) for line in log.read_text().splitlines())
    # Requests under way when the time is up count as errors to h2load, not to us.
    return {"requests": codes[0], "p99_ms": times[int(len(times) * 0.99)] / 1000, "errors": sum(codes[1:])}


def milliseconds(text):
    match = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text)
    return float(match[1]) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60000}[match[2]] if match else None


# What is measured, on which path, by which load.
SCENARIOS = {
    "hop-h1": ("one hop, plain HTTP/1.1, flat out", "hop-h1", flat_out_h1),
    "hop-h2": ("one hop, plain HTTP/2, flat out", "hop-h2", flat_out_h2),
    "mesh-h1": ("two hops, mutual TLS, HTTP/1.1 client, flat out", "mesh-h1", flat_out_h1),
    "mesh-h2": ("two hops, mutual TLS, HTTP/2 client, flat out", "mesh-h2", flat_out_h2),
    "hop-rate": ("one hop, plain HTTP/1.1, 2,000 requests/s", "hop-h1", fixed_rate_h1),
    "mesh-rate": ("two hops, mutual TLS, HTTP/1.1 client, 2,000 requests/s", "mesh-h1", fixed_rate_h1),
}
# Key in a sample, heading, whether more is better, digits.
FIGURES = [
    ("rate", "requests/s", True, 0),
    ("cpu_us", "CPU µs/request", False, 1),
    ("p99_ms", "p99 ms", False, 2),
    ("memory", "memory MiB", False, 0),
]


def measure(rig, scenario, seconds):
    _, path, load = SCENARIOS[scenario]
    cpu = rig.cpu_seconds()
    sample = load(rig, ADDRESS[path], seconds)
    cpu = rig.cpu_seconds() - cpu
    if not sample["requests"]:
        raise RuntimeError(f"{rig.peer.name} answered nothing in {scenario}: {sample}")
    return sample | {
        "scenario": scenario,
        "peer": rig.peer.name,
        "rate": sample["requests"] / seconds,
        "cpu_us": cpu / sample["requests"] * 1e6,
        "cores": cpu / seconds,
        "memory": rig.memory_mib(),
    }


def bench(options):
    samples, rigs = [], []
    folder = pathlib.Path(tempfile.mkdtemp(prefix="weft-bench-"))
    folder.chmod(0o755)  # nginx's worker is not root
    try:
        for peer in [make() for make in PEERS]:
            if peer.name not in options.peers.split(","):
                continue
            if not peer.binary:
                raise RuntimeError(f"{peer.name} was not found: `make bench` sets it up, or set {peer.name.upper()}_BIN")
            rigs.append(rig := Rig(peer, folder))
            rig.up()
            print(f"{peer.name} {peer.version()}", file=sys.stderr)
        for scenario in options.scenarios.split(","):
            for number in range(options.rounds):
                # Taking turns at going first, so that neither always meets the other's leftovers.
                for rig in rigs if number % 2 == 0 else reversed(rigs):
                    sample = measure(rig, scenario, options.seconds) | {"round": number}
                    samples.append(sample)
                    figures = "  ".join(f"{title} {show(sample[key], digits)}" for key, title, _, digits in FIGURES)
                    print(f"{scenario:9} round {number + 1}  {rig.peer.name:5}  {figures}  "
                          f"cores {sample['cores']:.2f}  errors {sample['errors']}", file=sys.stderr, flush=True)
    finally:
        for rig in rigs:
            rig.close()
        shutil.rmtree(folder)
    return samples


def report(samples):
    """A table: medians of the rounds, and the median of each round's ratio of weft to Envoy."""
    print("| scenario | " + " | ".join(f"envoy {title} | weft | ratio" for _, title, _, _ in FIGURES) + " | errors |")
    print("|---" * (2 + 3 * len(FIGURES)) + "|")
    for scenario in dict.fromkeys(sample["scenario"] for sample in samples):
        by_peer = {name: {s["round"]: s for s in samples if s["scenario"] == scenario and s["peer"] == name} for name in ("envoy", "weft")}
        cells = [SCENARIOS[scenario][0]]
        for key, _, _, digits in FIGURES:
            for name in ("envoy", "weft"):
                cells.append(show(median(s[key] for s in by_peer[name].values()), digits))
            both = by_peer["envoy"].keys() & by_peer["weft"].keys()
            ratios = [by_peer["weft"][r][key] / by_peer["envoy"][r][key] for r in both
                      if by_peer["weft"][r][key] is not None and by_peer["envoy"][r][key]]
            cells.append(f"**{median(ratios):.2f}**" if ratios else "-")
        cells.append("/".join(str(sum(s["errors"] for s in peer.values())) for peer in by_peer.values()))
        print("| " + " | ".join(cells) + " |")
    print("\nRatios are weft to Envoy, per round, then the median: requests/s above 1 is faster, all others below 1 are better.")


def median(values):
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None


def show(value, digits):
    return "-" if value is None else f"{value:.{digits}f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenarios", default=",".join(SCENARIOS), help="of " + ", ".join(SCENARIOS))
    parser.add_argument("--peers", default="envoy,weft")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement")
    parser.add_argument("--out", type=pathlib.Path, help="also write every sample here, as JSON")
    parser.add_argument("--smoke", action="store_true", help="one round of a second each: shows that it runs, measures nothing")
    options = parser.parse_args()
    if options.smoke:
        options.rounds, options.seconds = 1, 1
    if os.geteuid() != 0:
        sys.exit("make bench wants root: it makes network namespaces")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that `finally` removes what was made
    with contextlib.suppress(OSError):
        os.setsid()  # a scheduler group of its own
    try:
        samples = bench(options)
    except RuntimeError as error:
        sys.exit(f"bench: {error}")
    if options.out:
        options.out.write_text(json.dumps(samples, indent=1))
    report(samples)
    if options.smoke and any(sample["errors"] for sample in samples):
        sys.exit("bench: requests failed")


if __name__ == "__main__":
    main()
