#!/usr/bin/env python3
"""What the result cache gives and costs: a hit beside PostgreSQL and beside a responder that always says the same, and what a statement
costs that is not answered from it.

  direct       pgbench -> PostgreSQL
  responder    a server on the same runtime that answers everything with one constant (benches/responder.rs)
  bulkhead     through Bulkhead, whose cache is on; `hit`: a thousand statements, all of them known
  bulkhead-off the same, with no cache
  bulkhead-redis the same as bulkhead, with a second tier in Redis

`miss`: a statement that is never asked twice. `write`: an update of one row. Both say what the cache costs where it gives nothing.
Writes every run to benches/results_cache.json and prints the table. Servers and method are those of run.py.
"""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from run import cpu_seconds, describe, quantile  # noqa: E402
from servers import POLICY, ROOT, ROWS_PER_TENANT, SCHEMA, CannotRun, Servers, free_port  # noqa: E402

SCRIPTS = {
    "hit": "\\set aid random(1, 1000)\nSELECT abalance FROM accounts WHERE {tenant}aid = :aid;\n",
    # A constant that no other statement has.
    "miss": "\\set aid random(1, {rows})\n\\set n random(1, 2000000000)\nSELECT abalance FROM accounts WHERE {tenant}aid = :aid AND bid <> :n;\n",
    "write": "\\set aid random(1, {rows})\nUPDATE accounts SET abalance = abalance WHERE {tenant}aid = :aid;\n",
}
CELLS = [("hit", p, c) for p in ("simple", "prepared") for c in (1, 16, 64)] + [(k, "simple", 16) for k in ("miss", "write")]
CONTENDERS = {"hit": ("direct", "responder", "bulkhead", "bulkhead-off"), "miss": ("bulkhead", "bulkhead-off", "bulkhead-redis"),
              "write": ("bulkhead", "bulkhead-off", "bulkhead-redis")}


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seconds", type=int, default=int(os.environ.get("BENCH_SECONDS", 2)))
    p.add_argument("--pairs", type=int, default=int(os.environ.get("BENCH_PAIRS", 9)))
    p.add_argument("--cells", nargs="+", help="such as hit-simple-16; default: all")
    p.add_argument("--output", type=Path, default=ROOT / "benches/results_cache.json")
    return p.parse_args()


def main():
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    bulkhead = ROOT / "target/release/bulkhead"
    responder = ROOT / "target/release/examples/responder"
    port = free_port()
    constant = subprocess.Popen([responder, str(port)])
    redis_port = free_port()
    redis = subprocess.Popen(["redis-server", "--port", str(redis_port), "--bind", "127.0.0.1", "--save", "", "--maxmemory", "1gb", "--maxmemory-policy", "allkeys-lru"],
                             stdout=subprocess.DEVNULL)
    try:
        with Servers(("direct", "bulkhead"), bulkhead, SCHEMA, POLICY, config="[cache]\nmemory_mb = 256\n") as on:
            # Before the same server: two servers would differ by more than the cache costs.
            off_port = free_port()
            off = on.another_bulkhead("bulkhead_off", off_port, {"QUERY_CACHE_ENABLED": "false"})
            tiers_port = free_port()
            tiers = on.another_bulkhead("bulkhead_redis", tiers_port, {"BULKHEAD_CACHE_REDIS": f"redis://127.0.0.1:{redis_port}"})
            places = {
                "direct": (on.connection("direct"), None),
                "responder": (on.connection("direct") | {"PGPORT": str(port)}, constant.pid),
                "bulkhead": (on.connection("bulkhead"), on.pid("bulkhead")),
                "bulkhead-off": (on.connection("bulkhead") | {"PGPORT": str(off_port)}, off),
                "bulkhead-redis": (on.connection("bulkhead") | {"PGPORT": str(tiers_port)}, tiers),
            }
            machine = describe(on)
            runs = measure(places, on.bin, args, CELLS, CONTENDERS, SCRIPTS)
    except CannotRun as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    finally:
        constant.terminate()
        redis.terminate()
    summary = summarise(runs)
    args.output.write_text(json.dumps({"machine": machine, "seconds": args.seconds, "pairs": args.pairs, "summary": summary, "runs": runs}, indent=1) + "\n")
    render(summary)
    return 0


def measure(places, programs, args, cells, all_contenders, scripts):
    """The contenders of each cell in turn, `args.pairs` times."""
    runs = []
    for kind, protocol, clients in cells:
        if args.cells and f"{kind}-{protocol}-{clients}" not in args.cells:
            continue
        contenders, script = all_contenders[kind], scripts[kind]
        for contender in contenders:  # known statements are known
            one_run(places, programs, contender, script, protocol, clients, 2)
        for round_ in range(args.pairs):
            turn = round_ % len(contenders)
            for contender in contenders[turn:] + contenders[:turn]:
                run = one_run(places, programs, contender, script, protocol, clients, args.seconds)
                runs.append({"kind": kind, "protocol": protocol, "clients": clients, "round": round_, "contender": contender} | run)
                cpu = "" if run["cpu_us"] is None else f"  cpu {run['cpu_us']:5.1f} us"
                print(f"{kind:5} {protocol:8} {clients:3} clients  round {round_ + 1}  {contender:14} {run['tps']:9.0f}/s  "
                      f"p50 {run['p50_us']:6.0f} us  p99 {run['p99_us']:6.0f} us{cpu}", flush=True)
    return runs


def one_run(places, programs, contender, text, protocol, clients, seconds):
    environment, pid = places[contender]
    tenant = "tenant_id = 1 AND " if contender in ("direct", "responder") else ""
    with tempfile.TemporaryDirectory(prefix="bulkhead-bench-run-") as directory:
        script = Path(directory) / "script.sql"
        script.write_text(text.format(tenant=tenant, rows=ROWS_PER_TENANT))
        command = [programs / "pgbench", "-n", "-M", protocol, "-c", clients, "-j", min(clients, os.cpu_count() or 1), "-T", seconds,
                   "-f", script, "--log", "--log-prefix", Path(directory) / "log", "--sampling-rate", "0.1"]
        before = cpu_seconds(pid)
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=environment, timeout=seconds + 120)
        cpu = cpu_seconds(pid) - before
        processed = re.search(r"actually processed: (\d+)", done.stdout)
        if done.returncode or not processed:
            raise CannotRun(f"pgbench, {contender}: {done.stderr.strip()[-1500:]}")
        latencies = sorted(int(line.split()[2]) for log in Path(directory).glob("log*") for line in log.open())
    statements = int(processed[1])
    return {
        "tps": float(re.search(r"tps = ([\d.]+)", done.stdout)[1]), "statements": statements,
        "p50_us": quantile(latencies, 0.5), "p99_us": quantile(latencies, 0.99),
        "cpu_us": None if pid is None else cpu / statements * 1e6,
    }


def summarise(runs):
    cells = []
    for kind, protocol, clients in dict.fromkeys((r["kind"], r["protocol"], r["clients"]) for r in runs):
        of = {}
        for run in runs:
            if (run["kind"], run["protocol"], run["clients"]) == (kind, protocol, clients):
                of.setdefault(run["contender"], []).append(run)
        cell = {"kind": kind, "protocol": protocol, "clients": clients, "contenders": {}, "ratios": {}}
        for contender, mine in of.items():
            cell["contenders"][contender] = {k: statistics.median(r[k] for r in mine) if mine[0][k] is not None else None
                                             for k in ("tps", "p50_us", "p99_us", "cpu_us")}
        for other in of:
            if other != "bulkhead":
                cell["ratios"][f"tps: {other}"] = spread([a["tps"] / b["tps"] for a, b in zip(of["bulkhead"], of[other])])
                if of[other][0]["cpu_us"]:
                    cell["ratios"][f"cpu: {other}"] = spread([a["cpu_us"] / b["cpu_us"] for a, b in zip(of["bulkhead"], of[other])])
        cells.append(cell)
    return cells


def spread(ratios):
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def render(summary):
    print("\n| kind, protocol, clients | /s | CPU us | against (spread) |\n|---|---:|---:|---|")
    for cell in summary:
        mine = cell["contenders"]["bulkhead"]
        ratios = "; ".join(f"{name} {r['median']:.2f} ({r['min']:.2f} to {r['max']:.2f})" for name, r in cell["ratios"].items())
        print(f"| {cell['kind']}, {cell['protocol']}, {cell['clients']} | {mine['tps']:,.0f} | {mine['cpu_us']:.1f} | {ratios} |")


if __name__ == "__main__":
    sys.exit(main())
