"""pgbench: its built-in scripts unchanged on tables that have a tenant in every key, and scripts that name the tenant."""

import os
import re
import subprocess
import sys
import tempfile

BIN = os.environ.get("PG_BIN", "/usr/lib/postgresql/15/bin")
TENANT = os.environ["DRIVER_TENANT"]

NAMED = """\\set aid random(1, 100000)
\\set delta random(-500, 500)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE tenant_id = :tenant AND aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE tenant_id = :tenant AND aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tenant_id = :tenant AND tid = 1;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE tenant_id = :tenant AND bid = 1;
INSERT INTO pgbench_history (tenant_id, tid, bid, aid, delta, mtime) VALUES (:tenant, 1, 1, :aid, :delta, CURRENT_TIMESTAMP);
END;
"""
GSET = """SELECT bid, count(*) AS n FROM pgbench_branches GROUP BY bid \\gset
\\if :n <> 1
SELECT 1/0;
\\endif
SELECT aid FROM pgbench_accounts WHERE aid = 7 AND bid = :bid;
"""
PIPELINE = """\\set aid random(1, 100000)
\\startpipeline
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
SELECT tbalance FROM pgbench_tellers WHERE tid = 1;
SELECT count(*) FROM pgbench_branches;
\\endpipeline
"""
SUMS = ("SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers), (SELECT sum(bbalance) FROM pgbench_branches), "
        "(SELECT coalesce(sum(delta), 0) FROM pgbench_history), (SELECT count(*) FROM pgbench_history), (SELECT count(*) FROM pgbench_accounts)")


def bench(folder, name, *args):
    """The figures of a run that do not depend on the clock."""
    done = subprocess.run([f"{BIN}/pgbench", "-n", "--random-seed=42", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120)
    print("==", name, done.returncode)
    for line in done.stdout.splitlines():
        if re.match(r"(transaction type|scaling factor|query mode|number of (transactions|failed))", line):
            print(line.replace(folder, ""))
    for line in done.stderr.splitlines():
        if "error" in line or "fatal" in line.lower():
            print(line)
    if done.returncode:
        sys.stderr.write(done.stderr[-1000:])
    return done.returncode


def main():
    status = 0
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for name, text in (("named", NAMED), ("gset", GSET), ("pipeline", PIPELINE)):
            files[name] = f"{folder}/{name}.sql"
            with open(files[name], "w") as f:
                f.write(text)
        for mode in ("simple", "extended", "prepared"):
            for builtin in ("select-only", "simple-update", "tpcb-like"):
                # One client with a fixed seed: the sums afterwards must be those of the direct run.
                status |= bench(folder, f"{builtin} {mode}", "-M", mode, "-b", builtin, "-c", "1", "-t", "60")
            status |= bench(folder, f"select-only {mode}, 8 clients", "-M", mode, "-S", "-c", "8", "-j", "2", "-t", "40")
            status |= bench(folder, f"tpcb-like {mode}, 4 clients", "-M", mode, "-c", "4", "-j", "2", "-t", "25")
            status |= bench(folder, f"named tenant {mode}", "-M", mode, "-D", f"tenant={TENANT}", "-f", files["named"], "-c", "1", "-t", "40")
            status |= bench(folder, f"gset {mode}", "-M", mode, "-f", files["gset"], "-c", "2", "-t", "10")
        for mode in ("extended", "prepared"):
            status |= bench(folder, f"pipeline {mode}", "-M", mode, "-f", files["pipeline"], "-c", "2", "-t", "20")
        status |= bench(folder, "a connection for each transaction", "-S", "-C", "-c", "2", "-t", "10")
    # simple-update does not touch tellers and branches; its part of the history is what they lack.
    done = subprocess.run([f"{BIN}/psql", "-X", "-A", "-t", "-c", SUMS], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    accounts, tellers, branches, history, rows, all_accounts = done.stdout.strip().split("|")
    print("rows", rows, all_accounts)
    if accounts != history or tellers != branches:
        sys.exit(f"balances do not add up: {done.stdout}")
    sys.exit(status)


if __name__ == "__main__":
    main()
