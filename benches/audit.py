#!/usr/bin/env python3
"""What the audit log costs.

  bulkhead      with an audit log, `durability = "interval"`
  bulkhead-off  the same without one
  bulkhead-sync `durability = "sync"`: writes wait for their intent, answers for the records of what they answer

`read`: a look-up by key. `hit`: the same, from the result cache. `write`: an update of one row, which has two records.
Writes every run to benches/results_audit.json and prints the table. Servers and method are those of run.py.
"""

import argparse
import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from cache import measure, render, summarise  # noqa: E402
from run import describe  # noqa: E402
from servers import POLICY, ROOT, SCHEMA, CannotRun, Servers, free_port  # noqa: E402

SCRIPTS = {
    "read": "\\set aid random(1, {rows})\nSELECT abalance FROM accounts WHERE {tenant}aid = :aid;\n",
    "write": "\\set aid random(1, {rows})\nUPDATE accounts SET abalance = abalance WHERE {tenant}aid = :aid;\n",
    "hit": "\\set aid random(1, 1000)\nSELECT abalance FROM accounts WHERE {tenant}aid = :aid;\n",
}
CELLS = [("read", "simple", 1), ("read", "simple", 16), ("read", "prepared", 16), ("write", "simple", 16), ("hit", "simple", 16)]
ALL = ("bulkhead", "bulkhead-off", "bulkhead-sync")
CONTENDERS = {"read": ALL, "write": ALL, "hit": ("bulkhead-cached", "bulkhead-cached-off")}


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seconds", type=int, default=int(os.environ.get("BENCH_SECONDS", 2)))
    p.add_argument("--pairs", type=int, default=int(os.environ.get("BENCH_PAIRS", 9)))
    p.add_argument("--cells", nargs="+", help="such as read-simple-16; default: all")
    p.add_argument("--output", type=Path, default=ROOT / "benches/results_audit.json")
    return p.parse_args()


def main():
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cache = {"BULKHEAD_CACHE_MEMORY_MB": "256"}
    settings = {
        "bulkhead": {"BULKHEAD_AUDIT_PATH": "interval"},
        "bulkhead-sync": {"BULKHEAD_AUDIT_PATH": "sync", "BULKHEAD_AUDIT_DURABILITY": "sync"},
        "bulkhead-cached": cache | {"BULKHEAD_AUDIT_PATH": "cached"},
        "bulkhead-cached-off": cache,
    }
    try:
        with Servers(("direct", "bulkhead"), ROOT / "target/release/bulkhead", SCHEMA, POLICY) as servers:
            # All before the same server: two servers would differ by more than the log costs.
            places = {"bulkhead-off": (servers.connection("bulkhead"), servers.pid("bulkhead"))}
            for name, variables in settings.items():
                port = free_port()
                if "BULKHEAD_AUDIT_PATH" in variables:
                    variables["BULKHEAD_AUDIT_PATH"] = str(servers.dir / f"audit-{variables['BULKHEAD_AUDIT_PATH']}")
                pid = servers.another_bulkhead(name.replace("-", "_"), port, variables)
                places[name] = (servers.connection("bulkhead") | {"PGPORT": str(port)}, pid)
            machine = describe(servers)
            runs = measure(places, servers.bin, args, CELLS, CONTENDERS, SCRIPTS)
    except CannotRun as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    for run in runs:  # what is compared has one name
        run["contender"] = run["contender"].replace("bulkhead-cached", "bulkhead")
    summary = summarise(runs)
    args.output.write_text(json.dumps({"machine": machine, "seconds": args.seconds, "pairs": args.pairs, "summary": summary, "runs": runs}, indent=1) + "\n")
    render(summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
