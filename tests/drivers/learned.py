#!/usr/bin/env python3
"""False denials of real clients that are held to what they were learned to say, before and after a deploy.

    python3 tests/drivers/learned.py [--statements 3000000]

The programs of run.py run through the proxy and are learned (`bulkhead learn`); then the rule unknown-statement is enforced for everybody.
They run again, and must say nothing that is refused, with pgbench in large numbers between them. Then a deploy: the schema changes, and new
code (NEW_CODE) speaks of what is new, first while the list `learns_until` later, then with what was learned meanwhile, and no more
exceptions. The half of the statements comes after the deploy. Statements are counted by the proxy's metrics, by program and phase; templates
are the forms on the list. Exit status: 0 nothing was refused, 1 something was. BULKHEAD_BIN as in run.py.
"""

import argparse
import collections
import os
import re
import subprocess
import sys
import time
import urllib.request

sys.dont_write_bytecode = True

import install  # noqa: E402
from cluster import BIN, TENANTS, Cluster  # noqa: E402
from programs import PROGRAMS, TABLES, policy_of  # noqa: E402
from run import HERE, Proxy, environment, run_all, run_once  # noqa: E402

ENFORCED = '[[threat]]\nrule = "unknown-statement"\nmode = "enforce"\n'
WINDOW = 'learns_until = "2999-01-01T00:00:00Z"\n'

# What the database's owner changes, and what the application says from then on.
SCHEMA_CHANGE = """
ALTER TABLE accounts ADD COLUMN tier text NOT NULL DEFAULT 'basic', ADD COLUMN closed_on date;
ALTER TABLE orders ADD COLUMN channel text;
CREATE INDEX ON accounts (tenant_id, tier);
"""
NEW_CODE = """
SELECT id, tier FROM accounts WHERE tier = 'basic' ORDER BY id LIMIT 5;
SELECT tier, count(*) FROM accounts GROUP BY tier ORDER BY tier;
UPDATE accounts SET tier = 'gold', closed_on = NULL WHERE id = 1;
UPDATE accounts SET closed_on = '2026-01-31' WHERE tier = 'silver' AND id > 5;
SELECT count(*) FROM accounts WHERE closed_on IS NULL OR closed_on > '2026-01-01';
SELECT a.tier, o.channel, count(*) FROM accounts a JOIN orders o USING (tenant_id) WHERE o.channel IS NOT NULL GROUP BY 1, 2;
SELECT id FROM orders WHERE channel IN ('web', 'app', 'desk') ORDER BY id LIMIT 3;
WITH latest AS (SELECT id, tier FROM accounts ORDER BY id DESC LIMIT 10) SELECT tier, max(id) FROM latest GROUP BY tier;
SELECT CASE WHEN tier = 'gold' THEN 1 ELSE 0 END AS vip, count(*) FROM accounts GROUP BY 1;
BEGIN;
UPDATE orders SET channel = 'web' WHERE id = 1;
COMMIT;
"""


class Phases:
    def __init__(self, cluster, proxy, tenants):
        self.cluster, self.proxy, self.tenants = cluster, proxy, tenants
        self.counted, self.refused = collections.Counter(), 0

    def metrics(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.proxy.admin}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        total = sum(float(n) for n in re.findall(r"^bulkhead_statements_total\{[^}]*\} (\S+)", text, re.M))
        refused = sum(float(n) for n in re.findall(r'^bulkhead_denials_total\{reason="threat"\} (\S+)', text, re.M))
        return int(total), int(refused)

    def count(self, phase, what, work):
        """Runs it, and tells how many statements it had and how many of them a threat rule refused."""
        before = self.metrics()
        work()
        statements, refused = (now - then for now, then in zip(self.metrics(), before))
        self.counted[phase] += statements
        self.refused += refused
        print(f"{phase:<22} {what:<16} {statements:>9} statements, {refused} refused", flush=True)
        if refused:
            print("".join(f"    {line}\n" for line in self.learn("--new").splitlines() if ", refused: " in line), end="", flush=True)

    def programs(self, phase):
        for program in PROGRAMS:
            self.count(phase, program.name, lambda p=program: self.program(p))

    def program(self, program):
        self.cluster.restore()
        if program.setup:
            # Its migration makes them anew.
            tables = " ".join(TABLES[program.name]).split()
            self.cluster.shared.sql("".join(f"DROP TABLE IF EXISTS {table} CASCADE; " for table in tables))
            self.proxy.write_policy(program.name, policy_of(program.name))
            run_once(program, "proxy", self.tenants[0], self.proxy.port, "setup")
            self.proxy.refuses(TABLES[program.name][0].split())
        run_all(program, "proxy", {tenant: self.proxy.port for tenant in self.tenants})

    def bulk(self, phase, statements):
        """pgbench, as much as that, in all its modes."""
        share = max(statements // (3 * len(self.tenants)), 1)

        def bench():
            running = []
            for mode in ("simple", "extended", "prepared"):
                for tenant in self.tenants:
                    env = environment("proxy", tenant, self.proxy.port, tenant, "pw-" + tenant)
                    # tpcb-like is 7 statements, simple-update 5, select-only 1; by pgbench's weights.
                    scripts = ["-b", "select-only@7", "-b", "simple-update@1", "-b", "tpcb-like@1"]
                    count = max(share * 9 // 19 // 2, 1)
                    running.append(subprocess.Popen([f"{BIN}/pgbench", "-n", "-M", mode, *scripts, "-c", "2", "-t", str(count)],
                                                    env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            for process in running:
                process.wait()
        self.count(phase, "pgbench, many", bench)

    def new_code(self, phase):
        def say():
            for tenant in self.tenants:
                env = environment("proxy", tenant, self.proxy.port, tenant, "pw-" + tenant)
                done = subprocess.run([f"{BIN}/psql", "-X", "-q", "-v", "ON_ERROR_STOP=1"], input=NEW_CODE, env=env, text=True,
                                      stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                if done.returncode:
                    print(f"the new code: {done.stdout}", flush=True)
        self.count(phase, "new code", say)

    def learn(self, *more):
        time.sleep(1)  # the log has it within its interval
        done = subprocess.run([self.proxy.binary, "learn", *more], cwd=self.proxy.dir, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode not in (0, 1):
            raise RuntimeError("it cannot be learned: " + done.stderr)
        return done.stdout

    def hold_to(self, text):
        """A list, in force."""
        self.proxy.write_policy("learned", text + ENFORCED)
        deadline = time.monotonic() + 30
        env = environment("proxy", "acme", self.proxy.port, "acme", "pw-acme")
        stranger = [f"{BIN}/psql", "-X", "-q", "-c", f"SELECT 1 AS nobody_says_{time.monotonic_ns()}"]
        while "learns_until" not in text and subprocess.run(stranger, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
            if time.monotonic() > deadline:
                raise RuntimeError("the list did not come into force")
            time.sleep(0.2)
        time.sleep(2)  # a reload takes no longer, where nobody can be asked


def forms(text):
    return len(re.findall(r'^    ["\']', text, re.M))


def run(phases, statements):
    phases.programs("learning")
    phases.bulk("learning", statements // 10)
    listed = phases.learn()
    commented = re.findall(r'^    # (["\'].*),$', listed, re.M)
    # A person looks at what a rule speaks against; these programs are known, and all of it is their own.
    listed = re.sub(r'^    # (["\'].*,)$', r"    \1", listed, flags=re.M)
    print(f"learned: {forms(listed)} statements, of which {len(commented)} were commented out", flush=True)
    phases.hold_to(listed)
    phases.programs("enforced")
    phases.bulk("enforced", statements * 4 // 10)
    phases.cluster.shared.sql(SCHEMA_CHANGE, user="postgres")
    phases.hold_to(listed.replace("statements = [", WINDOW + "statements = ["))
    phases.new_code("deploy, learning")
    phases.programs("deploy, learning")
    new = phases.learn("--new")
    print(f"new since the deploy: {len(new.splitlines())} statements", flush=True)
    again = re.sub(r'^    # (["\'].*,)$', r"    \1", phases.learn(), flags=re.M)
    phases.hold_to(again)
    phases.new_code("deploy, enforced")
    phases.programs("deploy, enforced")
    phases.bulk("deploy, enforced", statements // 2)
    phases.new_code("deploy, enforced")
    after = sum(count for phase, count in phases.counted.items() if phase.startswith("deploy"))
    print(f"{sum(phases.counted.values())} statements, {after} of them after the deploy; {forms(again)} templates; {phases.refused} false denials")


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--statements", type=int, default=3_000_000)
    args = args.parse_args()
    binary = os.path.abspath(os.environ.get("BULKHEAD_BIN", os.path.join(HERE, "../../target/release/bulkhead")))
    install.install({p.needs for p in PROGRAMS})
    with Cluster() as cluster:
        proxy = Proxy(cluster.root, cluster.shared)
        try:
            proxy.start(binary)
            phases = Phases(cluster, proxy, list(TENANTS))
            run(phases, args.statements)
        finally:
            proxy.stop()
    sys.exit(1 if phases.refused else 0)


if __name__ == "__main__":
    main()
