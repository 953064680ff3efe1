#!/usr/bin/env python3
"""Bulkhead's rewriting against PostgreSQL's own row security, on the same data: one million rows of one hundred tenants.

Row security lets no operator that is not leakproof run before its policy, so that comparisons of numeric, LIKE and jsonb
containment lose their index (and read all rows of the tenant). Bulkhead knows which of them cannot raise, and leaves them where they stand.

  direct-rls      pgbench -> PostgreSQL, as a role that row security holds to tenant 1
  rewritten       pgbench -> PostgreSQL, the text that `bulkhead explain` says it sends: rewriting alone, without the proxy
  pgbouncer-rls   as direct-rls, through PgBouncer: what an application with many clients has today
  bulkhead        through Bulkhead, as tenant 1

The policy is the quick form, `tenant_id = (SELECT current_setting(..)::int)`: the setting is read once a statement, and it is set with the
role, so that row security pays no round trip for it. Writes every run to benches/results_rls.json and the table between the
marks of README.md.
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
from run import describe, quantile  # noqa: E402
from servers import PASSWORD, ROOT, CannotRun, Servers  # noqa: E402

TENANTS, ROWS = 100, 1_000_000
EACH = ROWS // TENANTS
CONTENDERS = ("direct-rls", "rewritten", "pgbouncer-rls", "bulkhead")
BEGIN, END = "<!-- rls:begin -->", "<!-- rls:end -->"

PREPARE = f"""
CREATE EXTENSION pg_trgm;
CREATE ROLE bench_rls LOGIN PASSWORD '{PASSWORD}';
ALTER ROLE bench_rls SET app.tenant = '1';
-- Bulkhead's role reads the same tables without row security: this compares one lock with the other.
ALTER ROLE bench_app BYPASSRLS;
"""

SCHEMA = f"""
CREATE TABLE regions (id int PRIMARY KEY, name text NOT NULL);
INSERT INTO regions SELECT g, 'region ' || g FROM generate_series(1, 20) g;
CREATE TABLE accounts (tenant_id int NOT NULL, id int NOT NULL, region_id int NOT NULL REFERENCES regions, name text NOT NULL, PRIMARY KEY (tenant_id, id));
INSERT INTO accounts SELECT t, a, 1 + a % 20, 'account ' || a FROM generate_series(1, {TENANTS}) t, generate_series(1, 1000) a;
CREATE TABLE events (
  tenant_id int NOT NULL, id int NOT NULL, account_id int NOT NULL, amount numeric(12,2) NOT NULL, note text NOT NULL, doc jsonb NOT NULL, PRIMARY KEY (tenant_id, id));
INSERT INTO events SELECT t, e, 1 + e % 1000, (e * 7919 % {EACH})::numeric, encode(decode(md5((t * {EACH} + e)::text), 'hex'), 'base64'), jsonb_build_object('n', t * {EACH} + e, 'kind', e % 7)
  FROM generate_series(1, {TENANTS}) t, generate_series(1, {EACH}) e;
CREATE INDEX ON events (tenant_id, amount);
CREATE INDEX ON events (tenant_id, account_id);
CREATE INDEX ON events USING gin (note gin_trgm_ops);
CREATE INDEX ON events USING gin (doc jsonb_path_ops);
GRANT SELECT ON regions, accounts, events TO bench_app, bench_rls;
ALTER TABLE accounts ENABLE ROW LEVEL SECURITY;
ALTER TABLE events ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON accounts TO bench_rls USING (tenant_id = (SELECT current_setting('app.tenant')::int));
CREATE POLICY tenant ON events TO bench_rls USING (tenant_id = (SELECT current_setting('app.tenant')::int));
VACUUM ANALYZE regions, accounts, events;
"""

POLICY = """
[[table]]
name = "public.accounts"
scope = "tenant"
tenant_column = "tenant_id"

[[table]]
name = "public.events"
scope = "tenant"
tenant_column = "tenant_id"

[[table]]
name = "public.regions"
scope = "shared"
"""

# name: what `:n` is drawn from, and the statement. 7654321 stands for `:n` while Bulkhead explains it.
STATEMENTS = {
    "primary key": (f"random(1, {EACH})", "SELECT amount FROM events WHERE id = :n"),
    "tenant scan": ("random(0, 6)", "SELECT count(*), sum(amount) FROM events WHERE account_id > :n"),
    "numeric index": (f"random(0, {EACH - 1})", "SELECT id FROM events WHERE amount = :n"),
    "LIKE, trigram index": ("0", "SELECT id FROM events WHERE note LIKE '%a7q%'"),
    "jsonb containment, gin index": (f"random({EACH}, {2 * EACH - 1})", "SELECT id FROM events WHERE doc @> '{\"n\": :n}'"),
    "join of three": (
        "random(1, 1000)",
        "SELECT e.id, e.amount, a.name, r.name FROM events e JOIN accounts a ON a.id = e.account_id JOIN regions r ON r.id = a.region_id WHERE a.id = :n",
    ),
}
STAND_IN = "7654321"


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--seconds", type=int, default=int(os.environ.get("BENCH_SECONDS", 3)), help="length of one run (BENCH_SECONDS)")
    p.add_argument("--pairs", type=int, default=int(os.environ.get("BENCH_PAIRS", 5)), help="rounds of each cell (BENCH_PAIRS)")
    p.add_argument("--clients", type=int, default=4)
    p.add_argument("--bulkhead", type=Path, default=ROOT / "target/release/bulkhead")
    p.add_argument("--output", type=Path, default=ROOT / "benches/results_rls.json")
    p.add_argument("--no-readme", action="store_true", help="leave README.md alone")
    return p.parse_args()


def main():
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped then, too
    try:
        with Servers(CONTENDERS, args.bulkhead, SCHEMA, POLICY, PREPARE) as servers:
            texts = {name: rewritten(servers, sql) for name, (_, sql) in STATEMENTS.items()}
            check_same_answers(servers, texts)
            machine = describe(servers)
            runs = measure(servers, texts, args)
    except CannotRun as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    summary = summarise(runs)
    settings = {"seconds": args.seconds, "pairs": args.pairs, "clients": args.clients, "rows": ROWS, "tenants": TENANTS}
    args.output.write_text(json.dumps({"machine": machine, "settings": settings, "texts": texts, "summary": summary, "runs": runs}, indent=1) + "\n")
    table = render(summary, machine, args)
    print("\n" + table)
    if not args.no_readme:
        write_table(table)
    return 0


def rewritten(servers, sql):
    """The text that Bulkhead sends for a statement."""
    command = [servers.bulkhead, "explain", "--config", servers.dir / "proxy.toml", "--tenant", "1", "--role", "app", "--json",
               sql.replace(":n", STAND_IN)]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, cwd=servers.dir)
    if done.returncode:
        raise CannotRun(f"explain of {sql!r}: {done.stdout}{done.stderr}")
    return json.loads(done.stdout)[0]["final_sql"].replace(STAND_IN, ":n")


def text_for(contender, name, texts):
    return texts[name] if contender == "rewritten" else STATEMENTS[name][1]


def place(contender, servers):
    return servers.connection("direct" if contender == "rewritten" else contender)


def check_same_answers(servers, texts):
    """A fast wrong answer is no result."""
    for name, (drawn, _) in STATEMENTS.items():
        value = re.search(r"\d+", drawn)[0]
        answers = {}
        for contender in CONTENDERS:
            sql = text_for(contender, name, texts).replace(":n", value)
            answers[contender] = sorted(servers.psql(sql, **place(contender, servers)).splitlines())
        if len({tuple(a) for a in answers.values()}) != 1:
            raise CannotRun(f"{name}: the answers differ: { {c: a[:3] for c, a in answers.items()} }")


def measure(servers, texts, args):
    runs = []
    for name in STATEMENTS:
        for contender in CONTENDERS:  # caches filled, backends open
            one_run(servers, contender, name, texts, args.clients, 1)
        for round_ in range(args.pairs):
            turn = round_ % len(CONTENDERS)
            for contender in CONTENDERS[turn:] + CONTENDERS[:turn]:
                run = one_run(servers, contender, name, texts, args.clients, args.seconds)
                runs.append({"statement": name, "round": round_, "contender": contender} | run)
                print(f"{name:30} round {round_ + 1}  {contender:14} {run['tps']:9.1f}/s  p50 {run['p50_us']:8.0f} us", flush=True)
    return runs


def one_run(servers, contender, name, texts, clients, seconds):
    with tempfile.TemporaryDirectory(prefix="bulkhead-bench-run-") as directory:
        script = Path(directory) / "statement.sql"
        script.write_text(f"\\set n {STATEMENTS[name][0]}\n{text_for(contender, name, texts)};\n")
        command = [servers.bin / "pgbench", "-n", "-M", "simple", "-c", clients, "-j", min(clients, os.cpu_count() or 1), "-T", seconds,
                   "-f", script, "--log", "--log-prefix", Path(directory) / "log"]
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=place(contender, servers), timeout=seconds + 120)
        tps = re.search(r"tps = ([\d.]+)", done.stdout)
        failed = re.search(r"failed transactions: (\d+)", done.stdout)
        if done.returncode or not tps or (failed and int(failed[1])):
            raise CannotRun(f"pgbench, {contender}, {name}: {done.stderr.strip()[-1500:]}")
        latencies = sorted(int(line.split()[2]) for log in Path(directory).glob("log*") for line in log.open())
    return {"tps": float(tps[1]), "p50_us": quantile(latencies, 0.5), "p99_us": quantile(latencies, 0.99)}


def summarise(runs):
    cells = []
    for name in STATEMENTS:
        of = {c: [r for r in runs if r["statement"] == name and r["contender"] == c] for c in CONTENDERS}
        cell = {"statement": name, "tps": {c: statistics.median(r["tps"] for r in mine) for c, mine in of.items()}, "ratios": {}}
        for ratio, upper, lower in (("rewriting", "rewritten", "direct-rls"), ("proxied", "bulkhead", "pgbouncer-rls")):
            ratios = [u["tps"] / l["tps"] for u, l in zip(of[upper], of[lower])]
            cell["ratios"][ratio] = {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
        cells.append(cell)
    return cells


def render(summary, machine, args):
    head = ["statement", "row security /s", "rewritten /s", "rewritten : row security (spread)", "PgBouncer and row security /s", "Bulkhead /s",
            "Bulkhead : PgBouncer and row security (spread)"]
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    for cell in summary:
        tps, ratios = cell["tps"], cell["ratios"]

        def ratio(of):
            return f"{of['median']:.2f} ({of['min']:.2f} to {of['max']:.2f})"

        lines.append("| " + " | ".join([
            cell["statement"], f"{tps['direct-rls']:,.0f}", f"{tps['rewritten']:,.0f}", ratio(ratios["rewriting"]), f"{tps['pgbouncer-rls']:,.0f}",
            f"{tps['bulkhead']:,.0f}", ratio(ratios["proxied"])]) + " |")
    lines += ["", f"{ROWS:,} rows, {TENANTS} tenants, {args.clients} clients, simple protocol; medians of {args.pairs} rounds of {args.seconds} s. "
              f"{machine['cores']} cores ({machine['cpu']}); {' '.join(machine['postgres'])}; {' '.join(machine['pgbouncer'])}."]
    return "\n".join(lines)


def write_table(table):
    readme = ROOT / "README.md"
    text = readme.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise SystemExit("bench: README.md does not have the two row-security marks once each")
    readme.write_text(text[: text.index(BEGIN) + len(BEGIN)] + "\n" + table + "\n" + text[text.index(END):])


if __name__ == "__main__":
    sys.exit(main())
