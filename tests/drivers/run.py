#!/usr/bin/env python3
"""Runs real clients against PostgreSQL directly and through the proxy, several tenants at once, and compares.

    python3 tests/drivers/run.py [--direct-only] [--only NAME]... [--corpus FILE] [--tenants acme,globex] [--keep]

Each program is started once per tenant, all tenants at the same time. The direct run goes to a server that holds only
that tenant's rows; the run through the proxy goes to the server that holds everybody's. What a program prints must be the
same in both, its exit status must be 0, and no byte that reaches it may carry another tenant's token (tap.py looks at
all of them). BULKHEAD_BIN names the proxy (default target/debug/bulkhead).
"""

import argparse
import collections
import concurrent.futures
import difflib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path.insert(0, HERE)

import install  # noqa: E402
from cluster import BIN, TENANTS, Cluster, canary, free_port  # noqa: E402
from programs import PROGRAMS, TABLES, policy_of  # noqa: E402
from tap import Tap, shape  # noqa: E402

SECONDS = 240  # the longest that one program may take
DIFF_LINES = int(os.environ.get("DIFF_LINES", "40"))  # of a difference are shown
LABELLED = False  # with --corpus, psql's connections carry the command that they serve as application name


class Proxy:
    """The proxy with its configuration in a temporary directory."""

    def __init__(self, root, shared):
        self.dir = os.path.join(root, "proxy")
        self.port, self.admin, self.shared, self.process = free_port(), free_port(), shared, None
        os.makedirs(self.dir + "/policies", exist_ok=True)

    def write_config(self):
        up = f"127.0.0.1:{self.shared.port}/shop?sslmode=disable"
        text = f"""[server]
listen = "127.0.0.1:{self.port}"
admin_listen = "127.0.0.1:{self.admin}"
policies = "policies"

[audit]
path = "audit"

[[database]]
name = "shop"
upstream = "postgres://app:secret@{up}"
pool_size = 20

[[user]]
name = "web"
password = "pw-web"
tenants = ["1", "2", "3"]
roles = ["app"]

[[user]]
name = "migrator"
password = "pw-migrator"
unrestricted = true
upstream = "postgres://shop_owner:ownersecret@{up}"
"""
        for name, tenant in TENANTS.items():
            text += f'\n[[user]]\nname = "{name}"\npassword = "pw-{name}"\ntenant = "{tenant}"\nroles = ["app"]\n'
        with open(self.dir + "/proxy.toml", "w") as f:
            f.write(text)
        self.write_policy("shop", policy_of("base"))

    def write_policy(self, name, text):
        """Policies come as one file in one step, as a deployment would do it."""
        path = f"{self.dir}/policies/{name}.toml"
        with open(path + ".new", "w") as f:
            f.write(text)
        os.rename(path + ".new", path)
        if self.process:
            self.process.send_signal(signal.SIGHUP)

    def refuses(self, tables):
        """A complaint if a tenant may not read these at once."""
        question = "; ".join(f"SELECT 1 FROM {t} LIMIT 0" for t in tables)
        env = environment("proxy", "acme", self.port, "acme", "pw-acme")
        done = subprocess.run([f"{BIN}/psql", "-X", "-q", "-c", question], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return [] if done.returncode == 0 else ["the new policies did not come into force: " + done.stdout.strip()]

    def ended(self):
        """A complaint if the proxy has died; it is started again for the next program."""
        if self.process.poll() is None:
            return []
        complaint = f"the proxy ended with status {self.process.returncode}\n" + indent(self.tail())
        self.start(self.binary)
        return [complaint]

    def start(self, binary):
        self.binary = binary
        if not self.process:
            self.write_config()
        self.log = open(self.dir + "/log", "ab")
        self.process = subprocess.Popen([binary, "serve", "--config", "proxy.toml"], cwd=self.dir, stdout=self.log,
                                        stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the proxy did not start:\n" + self.tail())
                time.sleep(0.05)

    def tail(self):
        with open(self.dir + "/log", "rb") as f:
            return f.read()[-4000:].decode("utf8", "replace")

    def audited(self):
        """What the audit log says of all programs together, and complaints: what threat rules find in them is a false alarm."""
        def run(*arguments):
            done = subprocess.run([self.binary, "audit", *arguments, "--log", "audit"], cwd=self.dir, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            return done.returncode, done.stdout
        status, text = run("verify")
        complaints = [] if status == 0 else ["the audit log: " + text]
        records = [json.loads(line) for line in run("export", "--format", "raw")[1].splitlines()]
        events = collections.Counter(record["event"] for record in records)
        statements = sum(events[event] for event in ("statement", "intent", "refused"))
        alarms = collections.Counter(rule for record in records for rule in record.get("rules", []) + ([record["rule"]] if record["event"] == "threat" else []))
        texts = {record["template"]: record["text"] for record in records if record["event"] == "template"}
        false = {(record["rule"], texts[record["template"]]) for record in records if record["event"] == "threat" and "template" in record}
        complaints += [f"a false alarm of {rule}: {text}" for rule, text in sorted(false)]
        # Programs that try out errors have many of them: that is what `failures` looks for.
        print(f"audit log: {len(records)} records of {statements} statements, {len(texts)} templates; threat rules: {dict(alarms) or 'nothing'}")
        return complaints

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()


class Outcome:
    def __init__(self, tenant, status, text, errors_text, tap):
        self.tenant, self.status, self.text, self.stderr, self.tap = tenant, status, text, errors_text, tap


def environment(mode, tenant, port, user, password, options=""):
    t = TENANTS[tenant]
    env = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
    env.update(PGHOST="127.0.0.1", PGPORT=str(port), PGUSER=user, PGPASSWORD=password, PGDATABASE="shop", PGSSLMODE="disable",
               PGGSSENCMODE="disable", PGCONNECT_TIMEOUT="15", DRIVER_MODE=mode, DRIVER_TENANT=str(t), DRIVER_CANARY=canary(t),
               DRIVER_CACHE=install.CACHE, PYTHONPATH=HERE, PYTHONUNBUFFERED="1", PYTHONDONTWRITEBYTECODE="1", LC_ALL="C.UTF-8", TZ="UTC")
    if options:
        env["PGOPTIONS"] = options
    if LABELLED:
        env["DRIVER_LABELLED"] = "1"
    return env


def run_once(program, mode, tenant, port, phase="run"):
    """One program as one tenant; the program's connection goes through a tap of its own."""
    t = TENANTS[tenant]
    user, password, options = "app", "secret", ""
    if phase == "setup":
        user, password = ("shop_owner", "ownersecret") if mode == "direct" else ("migrator", "pw-migrator")
    elif program.login != "own":
        options = f"-c bulkhead.tenant={t}" if program.login == "web" else ""
        if mode == "proxy":
            user, password = "web", "pw-web"
    elif mode == "proxy":
        user, password = tenant, "pw-" + tenant
    forbidden = [canary(o) for o in TENANTS.values() if o != t] + ["CANARYsecret"] if phase == "run" else []
    tap = Tap(port, forbidden)
    try:
        env = environment(mode, tenant, tap.port, user, password, options)
        process = subprocess.Popen(program.command(phase), env=env, cwd=HERE, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, start_new_session=True)
        try:
            out, err = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            err += b"\ntimed out"
        out = out.replace(str(tap.port).encode(), b"PORT")
        return Outcome(tenant, process.returncode, out.decode("utf8", "replace"), err.decode("utf8", "replace"), tap)
    finally:
        tap.close()


def run_all(program, mode, ports):
    """All tenants at the same time."""
    with concurrent.futures.ThreadPoolExecutor(len(ports)) as pool:
        jobs = [pool.submit(run_once, program, mode, tenant, port) for tenant, port in ports.items()]
        return {job.result().tenant: job.result() for job in jobs}


def judge(direct, proxied):
    """Complaints about one tenant's pair of runs; empty is good."""
    found = []
    for where, run in (("direct", direct), ("proxy", proxied)):
        if run is None:
            continue
        if run.status != 0:
            found.append(f"{where}: exit status {run.status}\n" + indent(run.stderr[-1500:]))
        if run.tap.leaks:
            found.append(f"{where}: FOREIGN ROW: " + "; ".join(run.tap.leaks[:3]))
        if not run.tap.commands:
            found.append(f"{where}: nothing was executed")
    if direct and proxied:
        # Where to look is said besides.
        text = re.sub(r"(?im)^\s*detail:\s+Audit log: bulkhead why [0-9a-f]{8}\n", "", proxied.text)
        if direct.text != text:
            diff = difflib.unified_diff(direct.text.splitlines(), text.splitlines(), "direct", "proxy", n=1, lineterm="")
            found.append("output differs\n" + indent("\n".join(list(diff)[:DIFF_LINES])))
        known = {(shape(sql), code) for sql, code, _ in direct.tap.errors}
        refused = {shape(sql): (sql, code, message) for sql, code, message in proxied.tap.errors if (shape(sql), code) not in known}
        if refused:
            found.append(f"{len(refused)} statements are refused that work directly")
            found += [f"  {code} {message}\n" + indent(sql) for sql, code, message in refused.values()]
    return found


def effects(cluster, tenant, tables):
    """Complaints where the tenant's rows on the shared server are not those of its twin after both runs."""
    found = []
    for table in tables:
        # When a row was written is not part of what the program did.
        columns = cluster.shared.sql("SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute "
                                     f"WHERE attrelid = to_regclass('{table}') AND attnum > 0 AND NOT attisdropped AND attname <> 'mtime'").strip()
        if not columns:
            found.append(f"there is no table {table} on the shared server")
            continue
        rows = f"SELECT ROW({columns})::text AS r FROM {table} WHERE tenant_id = {TENANTS[tenant]}"
        digest = f"SELECT md5(string_agg(r, '/' ORDER BY r)), count(*) FROM ({rows}) AS x;"
        shared, solo = (server.sql(digest) for server in (cluster.shared, cluster.solo[tenant]))
        if shared != solo:
            pair = [server.sql(rows + " ORDER BY 1;").splitlines() for server in (cluster.solo[tenant], cluster.shared)]
            diff = difflib.unified_diff(*pair, "direct", "proxy", n=0, lineterm="")
            found.append(f"its rows of {table} differ afterwards\n" + indent("\n".join(list(diff)[:12])))
    return found


def indent(text):
    return "\n".join("      " + line for line in text.rstrip().splitlines())


def run_program(program, cluster, proxy, tenants, corpus, show=False):
    """Both runs of one program; returns its complaints."""
    complaints = []
    try:
        cluster.restore()
    except RuntimeError as e:
        complaints.append(f"before it, somebody left a transaction open: {e}")
    for tenant in tenants if program.setup else []:
        outcome = run_once(program, "direct", tenant, cluster.solo[tenant].port, "setup")
        complaints += [f"setup, direct: {c}" for c in judge(outcome, None)]
    direct = run_all(program, "direct", {t: cluster.solo[t].port for t in tenants})
    proxied = {}
    if proxy:
        if program.setup:
            # The policies are there before the tables are: they come into force with the migration.
            proxy.write_policy(program.name, policy_of(program.name))
            outcome = run_once(program, "proxy", tenants[0], proxy.port, "setup")
            complaints += [f"setup, proxy: {c}" for c in judge(None, outcome)]
            complaints += proxy.refuses(TABLES[program.name][0].split())
        proxied = run_all(program, "proxy", {t: proxy.port for t in tenants})
        complaints += proxy.ended()
    if show:
        print(direct[tenants[0]].text)
    tables = "accounts orders documents events " + TABLES.get(program.name, ("",))[0]
    if program.name == "pgbench":
        tables = "pgbench_accounts pgbench_branches pgbench_tellers pgbench_history"
    for tenant in tenants if proxy else []:
        complaints += [f"{tenant}: {c}" for c in effects(cluster, tenant, tables.split())]
    for tenant in tenants:
        complaints += [f"{tenant}: {c}" for c in judge(direct[tenant], proxied.get(tenant))]
        for kind, label, sql in direct[tenant].tap.statements:
            source = f"{program.name}, {kind}" + label.replace("driver:", ", ")
            corpus.setdefault(shape(sql), (sql, set()))[1].add(source)
    return complaints


def write_corpus(path, corpus):
    with open(path, "w") as f:
        f.write("-- What real clients send: collected by run.py --corpus. Entries are separated by a line of two semicolons;\n"
                "-- the lines `-- from:` name the programs, the rest of an entry is the statement as it was sent.\n;;\n")
        for sql, sources in corpus.values():
            for source in sorted(sources):
                f.write(f"-- from: {source}\n")
            f.write(sql.strip("\n") + "\n;;\n")


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--direct-only", action="store_true", help="no proxy: do the programs work at all")
    args.add_argument("--only", action="append", help="run this program only; may be repeated")
    args.add_argument("--tenants", default="acme,globex,initech")
    args.add_argument("--corpus", help="write the distinct statements that the programs send to this file")
    args.add_argument("--show", action="store_true", help="print what the first tenant's program printed")
    args.add_argument("--keep", action="store_true", help="print the proxy's log at the end")
    args = args.parse_args()
    chosen = [p for p in PROGRAMS if not args.only or p.name in args.only]
    if not chosen:
        sys.exit("no such program; there are: " + ", ".join(p.name for p in PROGRAMS))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    binary = os.environ.get("BULKHEAD_BIN", os.path.join(HERE, "../../target/debug/bulkhead"))
    if not args.direct_only and not os.path.exists(binary):
        sys.exit(f"{binary} is missing: build it, or name it in BULKHEAD_BIN")
    install.install({p.needs for p in chosen})
    passed = failed = 0
    corpus = {}
    global LABELLED
    LABELLED = bool(args.corpus)
    with Cluster() as cluster:
        proxy = None if args.direct_only else Proxy(cluster.root, cluster.shared)
        try:
            if proxy:
                proxy.start(os.path.abspath(binary))
            for program in chosen:
                began = time.monotonic()
                complaints = run_program(program, cluster, proxy, args.tenants.split(","), corpus, args.show)
                print(f"{program.name}: {'failed' if complaints else 'passed'} ({time.monotonic() - began:.1f} s)", flush=True)
                for complaint in complaints:
                    print("   " + complaint, flush=True)
                passed, failed = passed + (not complaints), failed + bool(complaints)
        finally:
            if proxy:
                if args.keep:
                    print(proxy.tail())
                proxy.stop()
        if proxy:
            for complaint in proxy.audited():
                print("   " + complaint, flush=True)
                failed += 1
    if args.corpus:
        write_corpus(args.corpus, corpus)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
