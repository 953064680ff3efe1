"""Throwaway PostgreSQL servers: one shared by all tenants, and one per tenant that holds only its rows (the twin).

All are copies of one data directory, so roles, schema, names and OIDs are equal; only the rows differ, and the setting
`solo.tenant` which the twins have and the shared server does not.
"""

import glob
import os
import shutil
import socket
import subprocess
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
# Highest version below 16: the reference answers are those of PostgreSQL 15.
BIN = os.environ.get("PG_BIN", "/usr/lib/postgresql/15/bin")
TENANTS = {"acme": 1, "globex": 2, "initech": 3}

CONF = """
listen_addresses = '127.0.0.1'
fsync = off
synchronous_commit = off
full_page_writes = off
shared_buffers = 16MB
max_connections = 120
autovacuum = off
timezone = 'UTC'
log_timezone = 'UTC'
datestyle = 'iso, mdy'
"""
HBA = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"


def canary(tenant):
    """The token that every text value of this tenant carries, and no other's."""
    return {1: "CANARYacme7f3a", 2: "CANARYglobex9b1c", 3: "CANARYinitech4d2e"}[tenant]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def as_postgres():
    """Arguments for subprocess: PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return {}
    return {"user": "postgres", "group": "postgres", "extra_groups": [], "env": {**os.environ, "HOME": "/tmp"}}


def quiet(args, **kw):
    done = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kw)
    if done.returncode != 0:
        raise RuntimeError(f"{args[0]} failed:\n{done.stdout}")
    return done.stdout


class Server:
    def __init__(self, root, name):
        self.name, self.root, self.data, self.port = name, root, os.path.join(root, name), free_port()
        self.log = self.data + ".log"

    def start(self):
        quiet([f"{BIN}/pg_ctl", "-D", self.data, "-w", "-l", self.log, "-o", f"-p {self.port} -k {self.root}", "start"],
              cwd=self.root, **as_postgres())

    def stop(self):
        subprocess.run([f"{BIN}/pg_ctl", "-D", self.data, "-m", "immediate", "stop"], cwd=self.root,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **as_postgres())

    def sql(self, text, user="postgres", database="shop"):
        """Runs trusted SQL on the server itself, past the proxy."""
        return quiet([f"{BIN}/psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", self.root, "-p", str(self.port),
                      "-U", user, "-d", database, "-f", "-"], input=text)


def rows_of(t):
    """SQL that loads the rows of tenant t; ids differ between tenants (pgbench's keys are the same for all)."""
    c, base = canary(t), t * 1000
    return f"""
INSERT INTO accounts (id, tenant_id, email, balance, note, home)
  SELECT {base} + i, {t}, 'user' || i || '@{c}.test', i * 10 + {t}, '{c} note ' || i, ROW('{c} street ' || i, 'city', 'Z' || i)::address
  FROM generate_series(1, 20) i;
INSERT INTO orders (id, tenant_id, account_id, status, quantity, tags, meta, placed_on)
  SELECT {base} + i, {t}, {base} + 1 + i % 20, (ARRAY['new','paid','shipped']::order_status[])[1 + i % 3], 1 + i % 7,
         ARRAY['{c}', 'tag' || i], jsonb_build_object('token', '{c}', 'n', i), DATE '2026-01-01' + i
  FROM generate_series(1, 60) i;
INSERT INTO documents (id, tenant_id, title, body, valid, ratio, small, flag, took, at_time, plain_ts, doc, nums)
  SELECT ('{t:08d}-0000-4000-8000-' || lpad(i::text, 12, '0'))::uuid, {t}, '{c} title ' || i, '{c} body'::bytea,
         daterange('2026-01-01', DATE '2026-01-01' + i), i / 3.0, i, i % 2 = 0, make_interval(hours => i), TIME '10:00' + make_interval(mins => i),
         TIMESTAMP '2026-01-01 12:00' + make_interval(days => i), json_build_object('token', '{c}'), ARRAY[i, {t}]
  FROM generate_series(1, 5) i;
INSERT INTO events (id, tenant_id, happened, payload)
  SELECT {base} + i, {t}, DATE '2025-06-01' + i * 20, '{c} event ' || i FROM generate_series(1, 20) i;
"""


def pgbench_rows_of(t):
    c = canary(t)
    return f"""
INSERT INTO pgbench_branches (bid, bbalance, tenant_id) VALUES (1, 0, {t});
INSERT INTO pgbench_tellers (tid, bid, tbalance, tenant_id) SELECT i, 1, 0, {t} FROM generate_series(1, 10) i;
INSERT INTO pgbench_accounts (aid, bid, abalance, filler, tenant_id) SELECT i, 1, 0, '{c}', {t} FROM generate_series(1, 100000) i;
"""


SHARED_ROWS = """
INSERT INTO products VALUES (1, 'anvil', 10.00), (2, 'rocket', 99.50), (3, 'magnet', 5.25);
INSERT INTO secrets VALUES (1, 'CANARYsecret');
"""


class Cluster:
    """The shared server and the twins."""

    def __init__(self):
        self.root = tempfile.mkdtemp(prefix="bulkhead-drivers-")
        os.chmod(self.root, 0o755)
        if os.getuid() == 0:
            shutil.chown(self.root, "postgres", "postgres")
        self.shared = Server(self.root, "shared")
        self.solo = {}

    def __enter__(self):
        template = Server(self.root, "template")
        quiet([f"{BIN}/initdb", "-D", template.data, "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"],
              cwd=self.root, **as_postgres())
        self.write(template.data + "/postgresql.conf", CONF, append=True)
        self.write(template.data + "/pg_hba.conf", HBA)
        template.start()
        try:
            template.sql("CREATE ROLE shop_owner LOGIN PASSWORD 'ownersecret'; CREATE ROLE app LOGIN PASSWORD 'secret'",
                         database="postgres")
            template.sql("CREATE DATABASE shop OWNER shop_owner", database="postgres")
            with open(os.path.join(HERE, "schema.sql")) as f:
                template.sql(f.read(), user="shop_owner")
            template.sql(SHARED_ROWS)
        finally:
            quiet([f"{BIN}/pg_ctl", "-D", template.data, "-w", "stop"], cwd=self.root, **as_postgres())
        for name, t in TENANTS.items():
            self.solo[name] = self.copy(template, "solo_" + name)
            self.solo[name].sql(rows_of(t) + pgbench_rows_of(t) + f"ALTER DATABASE shop SET solo.tenant = '{t}'; ANALYZE;")
        self.shared = self.copy(template, "shared")
        self.shared.sql("".join(rows_of(t) + pgbench_rows_of(t) for t in TENANTS.values()) + "ANALYZE;")
        return self

    def restore(self):
        """The rows as they were at the start, on all servers, so that programs do not depend on each other."""
        clear = "SET lock_timeout = '10s'; TRUNCATE accounts, orders, documents, events RESTART IDENTITY;"
        for name, t in TENANTS.items():
            self.solo[name].sql(clear + rows_of(t))
        self.shared.sql(clear + "".join(rows_of(t) for t in TENANTS.values()))

    def copy(self, template, name):
        server = Server(self.root, name)
        quiet(["cp", "-a", template.data, server.data])
        server.start()
        return server

    def write(self, path, text, append=False):
        with open(path, "a" if append else "w") as f:
            f.write(text)

    def __exit__(self, *_):
        for server in [self.shared, *self.solo.values()]:
            server.stop()
        shutil.rmtree(self.root, ignore_errors=True)
