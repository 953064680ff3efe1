#!/usr/bin/env python3
"""Points sqlsmith at the proxy: statements that somebody else generates, on a server that holds the rows of several tenants.

    python3 tests/sqlsmith/run.py [--queries N] [--seed S] [--share PERCENT]

sqlsmith connects as one tenant through a relay that looks at every byte for the tokens of the others (tests/drivers/tap.py).
Printed: how many statements were accepted, and the refusals by reason. Exit status 1: a foreign token, a proxy that ended, rows
of others that changed, or fewer accepted statements than asked. BULKHEAD_BIN names the proxy (default target/debug/bulkhead).
"""

import argparse
import collections
import os
import re
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(HERE, "../drivers"))

from cluster import TENANTS, Cluster, canary  # noqa: E402
from run import Proxy  # noqa: E402
from tap import Tap  # noqa: E402

TENANT = "acme"
FOREIGN = "SELECT md5(string_agg(r, '/' ORDER BY r)) FROM (" + " UNION ALL ".join(
    f"SELECT '{t}' || x::text FROM {t} x WHERE tenant_id <> {TENANTS[TENANT]}" for t in ("accounts", "orders", "documents", "events")
) + ") AS f(r);"


# Codes of what the proxy refuses. The rest of the errors are what a generator runs into on PostgreSQL itself.
REFUSALS = ("0A000", "42501", "54000", "54001")
# Tables that no tenant may read would only be refused.
SCHEMA = "REVOKE ALL ON account_names, secrets FROM app, PUBLIC;"


def reason(code, message):
    """What makes two errors the same: the message without names and numbers."""
    message = re.sub(r'"[^"]*"', '".."', message)
    message = re.sub(r"\d+", "0", message)
    message = re.sub(r"(permission denied for \w+) .*", r"\1 ..", message)
    message = re.sub(r"(does not exist|is not unique|must be coercible to).*", r"\1", message)
    message = re.sub(r"(function|operator) [\w.]+\(.*\)", r"\1 ..", message)
    return f"{code} {message[:110]}"


def smith(port, user, password, queries, seed, *more):
    target = f"host=127.0.0.1 port={port} dbname=shop user={user} password={password} sslmode=disable"
    return subprocess.run(["sqlsmith", f"--target={target}", "--exclude-catalog", f"--max-queries={queries}", f"--seed={seed}", *more],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--queries", type=int, default=5000)
    args.add_argument("--seed", type=int, default=1)
    args.add_argument("--share", type=float, default=30, help="at least so many of a hundred must be accepted")
    args.add_argument("--save", help="write what was refused to this file, for `bulkhead check --sql` or `make regress`")
    args.add_argument("--show", type=int, default=0, help="print so many statements of each reason")
    args = args.parse_args()
    if not shutil.which("sqlsmith"):
        sys.exit("sqlsmith is missing (Debian package sqlsmith)")
    binary = os.path.abspath(os.environ.get("BULKHEAD_BIN", os.path.join(HERE, "../../target/debug/bulkhead")))
    with Cluster() as cluster:
        cluster.shared.sql(SCHEMA)
        proxy = Proxy(cluster.root, cluster.shared)
        proxy.start(binary)
        tap = Tap(proxy.port, [canary(t) for t in TENANTS.values() if t != TENANTS[TENANT]])
        try:
            before = cluster.shared.sql(FOREIGN)
            done = smith(tap.port, TENANT, "pw-" + TENANT, args.queries, args.seed)
            failures = report(args, tap, done) + proxy.ended()
            if cluster.shared.sql(FOREIGN) != before:
                failures.append("rows of other tenants have changed")
        finally:
            tap.close()
            proxy.stop()
    for failure in failures:
        print("FAILED: " + failure)
    sys.exit(1 if failures else 0)


def report(args, tap, done):
    """Prints what came of it; returns the failures."""
    failures = []
    if args.save:
        with open(args.save, "w") as f:
            for sql, code, message in tap.errors:
                if code in REFUSALS:
                    f.write(f"-- {code} {message}\n{sql.strip().rstrip(';')};\n")
    # What sqlsmith asks of the catalog comes before what it generates.
    generated = [sql for _, _, sql in tap.statements if is_generated(sql)]
    errors = [(sql, code, message) for sql, code, message in tap.errors if is_generated(sql)]
    # A ROLLBACK that comes a moment late is told that the time is up, too.
    setup = [e for e in tap.errors if not is_generated(e[0]) and e[1] != "57014"]
    reasons = collections.defaultdict(list)
    for sql, code, message in errors:
        reasons[reason(code, message)].append(sql)
    refused = sum(code in REFUSALS for _, code, _ in errors)
    accepted = len(generated) - refused
    share = 100 * accepted / max(1, len(generated))
    print(f"{len(generated)} statements: {accepted} accepted ({share:.1f} %), {refused} refused, "
          f"{len(errors) - refused} failed on the server or as they would there")
    for text, members in sorted(reasons.items(), key=lambda r: -len(r[1])):
        print(f"{len(members):>7}  {text}")
        for sql in members[:args.show]:
            print("         " + re.sub(r"\s+", " ", sql)[:400])
    for sql, code, message in setup:
        failures.append(f"sqlsmith's own question of the catalog: {code} {message}: {sql[:300]}")
    failures += [f"FOREIGN ROW: {leak}" for leak in tap.leaks[:5]]
    if len(generated) < args.queries * 0.9:
        failures.append(f"sqlsmith sent {len(generated)} of {args.queries} statements: {done.stdout[-600:]}")
    if share < args.share:
        failures.append(f"{share:.1f} % are accepted, {args.share} % are asked")
    return failures


def is_generated(sql):
    """What sqlsmith writes has several lines; what it asks of the catalog and sets has one."""
    return bool(re.match(r"\s*(select|insert|update|delete|merge|with|values)\b", sql, re.I)) and "\n" in sql.strip()


if __name__ == "__main__":
    main()
