#!/usr/bin/env python3
"""Instructions of user space that a statement costs Bulkhead, by callgrind: the same on every machine, so that growth shows.

    python3 benches/instructions.py [--update] [--keep DIRECTORY]

One client sends the same kind of statement again and again through a server that runs under valgrind. Counted are all
instructions of the process, from a warm state on, divided by the statements. `benches/instructions.json` holds what was counted last;
exit status 1 where something grew by more than 5 %, and --update writes the file.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from run import SCRIPTS, WITH_TENANT  # noqa: E402
from servers import ROOT, CannotRun, Servers  # noqa: E402

FILE = ROOT / "benches/instructions.json"
GROWTH = 1.05
WARM, COUNTED = 300, 1000
# name: contender, protocol
CASES = {f"{name}, {protocol}": (contender, protocol) for name, contender in (("tenant", "bulkhead"), ("relay", "bulkhead-passthrough"))
         for protocol in ("simple", "extended", "prepared")}


class Counted(Servers):
    """Bulkhead under callgrind."""

    def _spawn(self, name, command):
        if name == "bulkhead":
            command = ["valgrind", "-q", "--tool=callgrind", "--compress-strings=no", "--compress-pos=no", "--max-stackframe=16777216", f"--callgrind-out-file={self.dir}/callgrind.out", *command]
        super()._spawn(name, command)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bulkhead", type=Path, default=ROOT / "target/release/bulkhead")
    p.add_argument("--update", action="store_true", help="write what is counted now")
    p.add_argument("--keep", type=Path, help="leave callgrind's profiles there, for callgrind_annotate")
    p.add_argument("--only", action="append", help="a case")
    args = p.parse_args()
    counts = {}
    try:
        with Counted(("bulkhead",), args.bulkhead) as servers:
            for name in args.only or CASES:
                counts[name] = count(servers, *CASES[name], args.keep and args.keep / name.replace(", ", "-"))
                print(f"{name:20} {counts[name]:8,.0f} instructions a statement", flush=True)
    except CannotRun as error:
        print(f"instructions: {error}", file=sys.stderr)
        return 2
    print(counts)


def count(servers, contender, protocol, keep):
    pid = servers.pid("bulkhead")
    run(servers, contender, protocol, WARM)
    control(pid, "--zero")
    run(servers, contender, protocol, COUNTED)
    control(pid, "--dump")
    dumps = sorted(servers.dir.glob("callgrind.out.*"), key=lambda p: int(p.suffix[1:].split("-")[0]))
    text = dumps[-1].read_text()
    if keep:
        keep.parent.mkdir(parents=True, exist_ok=True)
        keep.write_text(text)
    for dump in dumps:
        dump.unlink()
    return int(re.search(r"(?m)^(?:summary|totals): (\d+)", text)[1]) / COUNTED


def run(servers, contender, protocol, statements):
    with tempfile.TemporaryDirectory(prefix="bulkhead-bench-run-") as directory:
        script = Path(directory) / "select.sql"
        script.write_text(SCRIPTS.get(contender, WITH_TENANT))
        command = [servers.bin / "pgbench", "-n", "-M", protocol, "-c", 1, "-t", statements, "-f", script]
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=servers.connection(contender), timeout=300)
        if done.returncode:
            raise CannotRun(f"pgbench: {done.stderr.strip()[-1500:]}")


def control(pid, what):
    done = subprocess.run(["callgrind_control", what, str(pid)], capture_output=True, text=True, env=os.environ)
    if done.returncode:
        raise CannotRun(f"callgrind_control {what}: {done.stdout}{done.stderr}")


if __name__ == "__main__":
    sys.exit(main())
