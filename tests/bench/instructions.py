#!/usr/bin/env python3
"""Counts the instructions that weft spends on a request, under callgrind, and fails where there are more than
instructions.json allows. Instructions do not depend on how busy the machine is, so they guard where times cannot."""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from bench import Rig
from peers import ADDRESS, Weft

WARM_UP, REQUESTS = 1_000, 4_000
# The sides that a request passes, and how it is sent.
LOADS = {
    "hop-h1": ("a", ["--h1", "-c8"]),
    "hop-h2": ("a", ["-c2", "-m16"]),
    "mesh-h1": ("ab", ["--h1", "-c8"]),
    "mesh-h2": ("ab", ["-c2", "-m16"]),
}
LIMITS = pathlib.Path(__file__).with_name("instructions.json")
# What counts may be above the limit before it fails: how requests fall together in records and wake-ups differs a little.
TOLERANCE = 1.04


class Counted(Rig):
    """A rig whose proxies run under callgrind, many times slower."""

    patience = 300

    def proxy(self, side, argv):
        out = f"--callgrind-out-file={self.dir}/counts-{side}"
        super().proxy(side, ["valgrind", "--quiet", "--tool=callgrind", "--separate-threads=yes", out, *argv])

    def requests(self, scenario, number):
        _, load = LOADS[scenario]
        self.load(["h2load", "-t1", "-n", str(number), *load, f"http://{ADDRESS[scenario]}/"], self.patience)

    def per_request(self, scenario):
        """Instructions of the workers of all sides. What other threads do, such as gossip, is as much as time passes."""
        self.requests(scenario, WARM_UP)
        for process in self.proxies.values():
            control(process, "--zero")
        self.requests(scenario, REQUESTS)
        sides, _ = LOADS[scenario]
        return round(sum(map(self.of_worker, sides)) / REQUESTS)

    def of_worker(self, side):
        """What the busiest thread has counted, which is the worker by far."""
        process, dumps = self.proxies[side], f"counts-{side}.*"
        known = set(self.dir.glob(dumps))
        control(process, "--dump")
        # Those that have ended are told of too.
        threads = len(list(pathlib.Path(f"/proc/{process.pid}/task").iterdir()))
        new = lambda: [count for file in set(self.dir.glob(dumps)) - known if (count := total(file)) is not None]
        return max(self.wait(f"the counts of {side}", lambda: len(counts := new()) >= threads and counts))


def control(process, what):
    subprocess.run(["callgrind_control", what, str(process.pid)], check=True, capture_output=True)


def total(file):
    found = re.search(r"^totals: (\d+)", file.read_text(errors="replace"), re.M)
    return int(found[1]) if found else None


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenarios", default=",".join(LOADS), help="of " + ", ".join(LOADS))
    parser.add_argument("--write", action="store_true", help="what is counted is the limit from now on")
    options = parser.parse_args()
    scenarios = options.scenarios.split(",")
    if unknown := [name for name in scenarios if name not in LOADS]:
        parser.error(f"{', '.join(unknown)}: there are {', '.join(LOADS)}")
    if os.geteuid() != 0:
        sys.exit("make instructions wants root: it makes network namespaces")
    peer = Weft()
    peer.check()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="weft-instructions-"))
    folder.chmod(0o755)  # nginx's worker is not root
    rig = Counted(peer, folder)
    try:
        rig.up()
        counts = {scenario: rig.per_request(scenario) for scenario in scenarios}
    finally:
        rig.close()
        shutil.rmtree(folder)
    limits = json.loads(LIMITS.read_text())
    for scenario, count in counts.items():
        print(f"{scenario}: {count} instructions a request, limit {limits[scenario]}")
    if options.write:
        LIMITS.write_text(json.dumps(limits | counts, indent=2) + "\n")
    elif above := [scenario for scenario, count in counts.items() if count > limits[scenario] * TOLERANCE]:
        sys.exit(f"more instructions than instructions.json allows: {', '.join(above)}")


if __name__ == "__main__":
    main()
