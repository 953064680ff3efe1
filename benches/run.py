#!/usr/bin/env python3
"""What Bulkhead costs: the same select by primary key directly, through PgBouncer and through Bulkhead, in alternation.

All run on one machine in one session, each round in another order, so that what else the machine does falls on all alike.
Without Bulkhead the statement names the tenant itself, as an application without Bulkhead must; through Bulkhead a tenant
sends it without, and Bulkhead adds it: PostgreSQL has the same work in every case.

  direct                 pgbench -> PostgreSQL
  pgbouncer              PgBouncer, transaction pool
  pgbouncer-session      PgBouncer, session pool, where it knows nothing of prepared statements (protocol `prepared` only)
  pgbouncer-rls          PgBouncer and row security, as isolation is done without Bulkhead: BEGIN, set_config of the tenant, the statement,
                         COMMIT (protocol `simple` only)
  bulkhead               a tenant: every statement is looked up, bound and rewritten
  bulkhead-passthrough   an unrestricted user: the text as it came, on a session of its own

Writes every run to benches/results.json, benches/chart.svg, and the table between the bench marks of README.md.
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
from chart import chart  # noqa: E402
from servers import PASSWORD, POLICY, POOL_SIZE, ROOT, ROWS_PER_TENANT, SCHEMA, CannotRun, Servers, pgbouncer  # noqa: E402

WITH_TENANT = f"\\set aid random(1, {ROWS_PER_TENANT})\nSELECT abalance FROM accounts WHERE tenant_id = 1 AND aid = :aid;\n"
SCRIPTS = {
    "bulkhead": f"\\set aid random(1, {ROWS_PER_TENANT})\nSELECT abalance FROM accounts WHERE aid = :aid;\n",
    "pgbouncer-rls": f"\\set aid random(1, {ROWS_PER_TENANT})\nBEGIN;\nSELECT set_config('app.tenant', '1', true);\n"
                     "SELECT abalance FROM accounts WHERE aid = :aid;\nCOMMIT;\n",
}
# Every other role sees the table as if it had none.
PREPARE = f"CREATE ROLE bench_rls LOGIN PASSWORD '{PASSWORD}';\nALTER ROLE bench_app BYPASSRLS;\n"
ROW_SECURITY = """
GRANT SELECT ON accounts TO bench_rls;
ALTER TABLE accounts ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON accounts TO bench_rls USING (tenant_id = (SELECT current_setting('app.tenant')::int));
"""
CONTENDERS = ("direct", "pgbouncer", "pgbouncer-session", "pgbouncer-rls", "bulkhead", "bulkhead-passthrough")
# What is compared in one protocol only.
ONLY = {"pgbouncer-session": "prepared", "pgbouncer-rls": "simple"}
# A connection to the server for each client: not for more clients than the pools have.
SESSIONS = ("pgbouncer-session", "bulkhead-passthrough")
PROTOCOLS = ("simple", "extended", "prepared")
TICK = os.sysconf("SC_CLK_TCK")
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seconds", type=int, default=int(os.environ.get("BENCH_SECONDS", 2)), help="length of one run (BENCH_SECONDS)")
    p.add_argument("--pairs", type=int, default=int(os.environ.get("BENCH_PAIRS", 9)), help="rounds of each cell (BENCH_PAIRS)")
    p.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64])
    p.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=list(PROTOCOLS))
    p.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    p.add_argument("--bulkhead", type=Path, default=ROOT / "target/release/bulkhead")
    p.add_argument("--output", type=Path, default=ROOT / "benches/results.json")
    p.add_argument("--no-readme", action="store_true", help="leave README.md alone")
    return p.parse_args()


def main():
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped then, too
    try:
        with Servers(args.contenders, args.bulkhead, SCHEMA + ROW_SECURITY, POLICY, PREPARE) as servers:
            check_same_answer(servers, args.contenders)
            machine = describe(servers)
            runs = measure(servers, args)
    except CannotRun as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    summary = summarise(runs)
    settings = {"seconds": args.seconds, "pairs": args.pairs, "rows_per_tenant": ROWS_PER_TENANT}
    args.output.write_text(json.dumps({"machine": machine, "settings": settings, "summary": summary, "runs": runs}, indent=1) + "\n")
    table = render(summary, machine, args)
    print("\n" + table)
    if not args.no_readme:
        write_table(table)
        (ROOT / "benches/chart.svg").write_text(chart(summary))
    return 0


def check_same_answer(servers, contenders):
    """A fast wrong answer is no result."""
    for contender in contenders:
        where = "aid = 77" if contender in SCRIPTS else "tenant_id = 1 AND aid = 77"
        select = f"SELECT count(*), sum(abalance) FROM accounts WHERE {where};"
        if contender == "pgbouncer-rls":
            select = f"BEGIN; SELECT set_config('app.tenant', '1', true);\n{select}\nCOMMIT;"
        answer = servers.psql(select, **servers.connection(contender))
        if answer.splitlines()[-1:] != ["1|1"]:
            raise CannotRun(f"{contender} answers {answer!r} instead of one row of tenant 1")


def measure(servers, args):
    runs = []
    for contender in args.contenders:  # caches filled, backends open
        one_run(servers, contender, ONLY.get(contender, "simple"), min(POOL_SIZE, max(args.clients)), 1)
    for protocol in args.protocols:
        for clients in args.clients:
            contenders = [c for c in args.contenders if ONLY.get(c, protocol) == protocol and (clients <= POOL_SIZE or c not in SESSIONS)]
            for round_ in range(args.pairs):
                turn = round_ % len(contenders)
                for contender in contenders[turn:] + contenders[:turn]:
                    run = one_run(servers, contender, protocol, clients, args.seconds)
                    runs.append({"protocol": protocol, "clients": clients, "round": round_, "contender": contender} | run)
                    cpu = "" if run["cpu_us"] is None else f"  cpu {run['cpu_us']:5.1f} us"
                    print(f"{protocol:9} {clients:3} clients  round {round_ + 1}  {contender:21} {run['tps']:9.0f}/s  "
                          f"p50 {run['p50_us']:6.0f} us  p99 {run['p99_us']:6.0f} us{cpu}", flush=True)
    return runs


def one_run(servers, contender, protocol, clients, seconds):
    environment = servers.connection(contender)
    pid = servers.pid(contender)
    with tempfile.TemporaryDirectory(prefix="bulkhead-bench-run-") as directory:
        script = Path(directory) / "select.sql"
        script.write_text(SCRIPTS.get(contender, WITH_TENANT))
        command = [servers.bin / "pgbench", "-n", "-M", protocol, "-c", clients, "-j", min(clients, os.cpu_count() or 1), "-T", seconds,
                   "-f", script, "--log", "--log-prefix", Path(directory) / "log", "--sampling-rate", "0.25"]
        before = cpu_seconds(pid)
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=environment, timeout=seconds + 120)
        cpu = cpu_seconds(pid) - before
        processed = re.search(r"actually processed: (\d+)", done.stdout)
        failed = re.search(r"failed transactions: (\d+)", done.stdout)
        if done.returncode or not processed or (failed and int(failed[1])):
            raise CannotRun(f"pgbench, {contender}, {protocol}, {clients} clients: {done.stderr.strip()[-1500:]}")
        latencies = sorted(int(line.split()[2]) for log in Path(directory).glob("log*") for line in log.open())
    statements = int(processed[1])
    return {
        "tps": float(re.search(r"tps = ([\d.]+)", done.stdout)[1]), "statements": statements,
        "p50_us": quantile(latencies, 0.5), "p99_us": quantile(latencies, 0.99),
        "cpu_us": None if pid is None else cpu / statements * 1e6,
    }


def cpu_seconds(pid):
    """User and system time of a process and its threads. Its grain is a clock tick, mostly 10 ms."""
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def quantile(values, q):
    return float(values[min(len(values) - 1, int(q * len(values)))]) if values else float("nan")


def summarise(runs):
    cells = []
    for protocol, clients in dict.fromkeys((r["protocol"], r["clients"]) for r in runs):
        of = {}
        for run in runs:
            if (run["protocol"], run["clients"]) == (protocol, clients):
                of.setdefault(run["contender"], []).append(run)
        cell = {"protocol": protocol, "clients": clients, "contenders": {}, "ratios": {}}
        for contender, mine in of.items():
            middle = {k: statistics.median(r[k] for r in mine) for k in ("tps", "p50_us", "p99_us")}
            middle["cpu_us"] = None if mine[0]["cpu_us"] is None else statistics.median(r["cpu_us"] for r in mine)
            cell["contenders"][contender] = middle | {"tps_min": min(r["tps"] for r in mine), "tps_max": max(r["tps"] for r in mine)}
        # Ratios are taken round by round, between neighbours in time.
        for name, upper, lower in (("bulkhead/pgbouncer", "bulkhead", "pgbouncer"), ("bulkhead/direct", "bulkhead", "direct"),
                                   ("bulkhead/pgbouncer-rls", "bulkhead", "pgbouncer-rls"), ("bulkhead/pgbouncer-session", "bulkhead", "pgbouncer-session"),
                                   ("passthrough/pgbouncer", "bulkhead-passthrough", "pgbouncer"), ("pgbouncer/direct", "pgbouncer", "direct")):
            if upper in of and lower in of:
                ratios = [u["tps"] / l["tps"] for u, l in zip(of[upper], of[lower])]
                cell["ratios"][name] = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
        cells.append(cell)
    return cells


def describe(servers):
    def said(*command):
        return subprocess.run(command, capture_output=True, text=True).stdout.splitlines()[0:1]

    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": cpu[1] if cpu else "unknown", "cores": os.cpu_count(), "load_before": os.getloadavg()[0],
        "postgres": said(servers.bin / "postgres", "--version"), "pgbouncer": said(pgbouncer(), "--version"),
        "commit": said("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"),
    }


def render(summary, machine, args):
    head = ["protocol, clients", "direct /s", "PgBouncer /s", "Bulkhead /s", "Bulkhead : PgBouncer (spread)", "Bulkhead : PgBouncer's other way", "pass-through /s",
            "p50 / p99 ms, PgBouncer", "p50 / p99 ms, Bulkhead", "CPU us a statement, PgBouncer", "Bulkhead"]
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    for cell in summary:
        of = cell["contenders"]
        ratio = cell["ratios"].get("bulkhead/pgbouncer")

        def tps(name):
            return f"{of[name]['tps']:,.0f}" if name in of else "-"

        def latency(name):
            return f"{of[name]['p50_us'] / 1000:.2f} / {of[name]['p99_us'] / 1000:.2f}" if name in of else "-"

        def cpu(name):
            return f"{of[name]['cpu_us']:.1f}" if name in of and of[name]["cpu_us"] is not None else "-"

        other = next((f"{cell['ratios'][f'bulkhead/{name}']['median']:.2f} ({how})" for name, how in
                      (("pgbouncer-rls", "row security"), ("pgbouncer-session", "session pool")) if f"bulkhead/{name}" in cell["ratios"]), "-")
        lines.append("| " + " | ".join([
            f"{cell['protocol']}, {cell['clients']}", tps("direct"), tps("pgbouncer"), tps("bulkhead"),
            f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})" if ratio else "-", other, tps("bulkhead-passthrough"),
            latency("pgbouncer"), latency("bulkhead"), cpu("pgbouncer"), cpu("bulkhead")]) + " |")
    lines += ["", f"Medians of {args.pairs} rounds of {args.seconds} s. {machine['cores']} cores ({machine['cpu']}), shared by clients, proxy and "
              f"server; {' '.join(machine['postgres'])}; {' '.join(machine['pgbouncer'])}; load before: {machine['load_before']:.1f}. "
              "Row security: BEGIN, set_config of the tenant, the statement and COMMIT through PgBouncer, as isolation is done without Bulkhead. "
              "Session pool: PgBouncer passes on what it does not look at."]
    return "\n".join(lines)


def write_table(table):
    readme = ROOT / "README.md"
    text = readme.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise SystemExit("bench: README.md does not have the two bench marks once each")
    readme.write_text(text[: text.index(BEGIN) + len(BEGIN)] + "\n" + table + "\n" + text[text.index(END):])


if __name__ == "__main__":
    sys.exit(main())
