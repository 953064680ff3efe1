"""The servers that the bench compares, on free ports in one temporary directory; all stopped on the way out."""

import glob
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROWS_PER_TENANT = 100_000
TENANTS = (1, 2, 3)
PASSWORD = "bench"
POOL_SIZE = 20

# pgbench's accounts with a tenant. The primary key starts with the tenant, as a multi-tenant schema's should.
SCHEMA = f"""
CREATE TABLE accounts (tenant_id int NOT NULL, aid int NOT NULL, bid int, abalance int, filler char(84), PRIMARY KEY (tenant_id, aid));
INSERT INTO accounts SELECT t, a, 1 + a % 10, t, '' FROM unnest(ARRAY{list(TENANTS)}) t, generate_series(1, {ROWS_PER_TENANT}) a;
GRANT SELECT, INSERT, UPDATE, DELETE ON accounts TO bench_app;
VACUUM ANALYZE accounts;
"""

POLICY = """
[[table]]
name = "public.accounts"
scope = "tenant"
tenant_column = "tenant_id"
"""


class CannotRun(Exception):
    """Something that the bench needs is missing or failed; the text says what."""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def postgres_bin():
    """The newest installation's programs; Debian keeps them out of PATH."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda p: int(p.split("/")[4]))
    if found:
        return Path(found[-1])
    initdb = shutil.which("initdb")
    if initdb is None:
        raise CannotRun("no initdb in /usr/lib/postgresql/*/bin or PATH")
    return Path(initdb).parent


def pgbouncer():
    """The program, built once from the source package of Debian 13: Debian 12's has no prepared statements in transaction pools."""
    found = subprocess.run([ROOT / ".ci/source", "pgbouncer", "--suite", "trixie"], stdout=subprocess.PIPE, text=True)
    if found.returncode:
        raise CannotRun("the source of PgBouncer did not come")
    tree = Path(found.stdout.strip())
    if not (tree / "pgbouncer").exists():
        print("bench: building PgBouncer (half a minute, once)", flush=True)
        for command in (["./configure", "--without-cares", "--without-systemd"], ["make", "-j2", "pgbouncer"]):
            built = subprocess.run(command, cwd=tree, capture_output=True, text=True)
            if built.returncode:
                raise CannotRun(f"PgBouncer, {' '.join(command)}: {(built.stdout + built.stderr)[-1500:]}")
    return tree / "pgbouncer"


class Servers:
    """PostgreSQL and the proxies before it. Use as a context manager."""

    def __init__(self, contenders, bulkhead, schema=SCHEMA, policy=POLICY, prepare="", config=""):
        """`prepare`: what the superuser does in the database before its owner runs `schema`. `config`: what proxy.toml has besides."""
        self.contenders = contenders
        self.schema, self.policy, self.prepare, self.config = schema, policy, prepare, config
        self.bulkhead = bulkhead and bulkhead.resolve()  # it runs in another directory
        self.bin = postgres_bin()
        self.children = {}  # name -> Popen
        # Neither PostgreSQL nor PgBouncer runs as root.
        self.user = "postgres" if os.getuid() == 0 else None

    def __enter__(self):
        self.dir = Path(tempfile.mkdtemp(prefix="bulkhead-bench-"))
        if self.user:
            entry = pwd.getpwnam(self.user)
            os.chown(self.dir, entry.pw_uid, entry.pw_gid)
        try:
            self._start_postgres()
            if any(c.startswith("pgbouncer") for c in self.contenders):
                self._start_pgbouncer()
            if any(c.startswith("bulkhead") for c in self.contenders):
                self._start_bulkhead()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for child in reversed(self.children.values()):
            if child.poll() is None:
                child.terminate()
                try:
                    child.wait(10)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
        shutil.rmtree(self.dir, ignore_errors=True)

    def pid(self, name):
        """The process whose CPU time counts for a contender; None for direct."""
        child = self.children.get(name.split("-")[0])
        return None if child is None else child.pid

    def connection(self, contender):
        """pgbench's environment for a contender."""
        port = dict.fromkeys(("direct", "direct-rls"), self.postgres_port)
        if contender.startswith("pgbouncer"):
            port[contender] = self.pgbouncer_port
        if contender.startswith("bulkhead"):
            port[contender] = self.bulkhead_port
        user = {"bulkhead": "tenant1", "bulkhead-neighbour": "tenant2", "bulkhead-passthrough": "owner", "direct-rls": "bench_rls", "pgbouncer-rls": "bench_rls",
                "bulkhead-one": "tenant1", "bulkhead-one-neighbour": "tenant2"}.get(contender, "bench_app")
        database = {"pgbouncer-session": "bench_session", "bulkhead-one": "bench_one", "bulkhead-one-neighbour": "bench_one"}.get(contender, "bench")
        clean = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
        return clean | {
            "PGHOST": "127.0.0.1", "PGPORT": str(port[contender]), "PGUSER": user, "PGPASSWORD": PASSWORD,
            "PGDATABASE": database, "PGSSLMODE": "disable",
        }

    def psql(self, sql, **environment):
        run = subprocess.run(
            ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"], input=sql, text=True, capture_output=True, env=environment)
        if run.returncode:
            raise CannotRun(f"psql: {run.stderr.strip()}")
        return run.stdout.strip()

    def _spawn(self, name, command, more=None):
        log = open(self.dir / f"{name}.log", "w")
        as_user = {"user": self.user, "group": self.user, "extra_groups": []} if self.user and not name.startswith("bulkhead") else {}
        environment = {k: v for k, v in os.environ.items() if not k.startswith("BULKHEAD_")} | (more or {})
        self.children[name] = subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.dir, env=environment, start_new_session=True, **as_user)

    # Seconds that a server may take until it listens.
    PATIENCE = 60

    def _wait(self, name, port):
        deadline = time.monotonic() + self.PATIENCE
        while time.monotonic() < deadline:
            if self.children[name].poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        log = (self.dir / f"{name}.log").read_text()[-2000:]
        raise CannotRun(f"{name} does not listen on port {port}:\n{log}")

    def _start_postgres(self):
        data, password_file = self.dir / "data", self.dir / "pwfile"
        password_file.write_text(PASSWORD)
        as_user = {"user": self.user, "group": self.user, "extra_groups": []} if self.user else {}
        initdb = subprocess.run(
            [self.bin / "initdb", "-U", "postgres", "-A", "scram-sha-256", "--pwfile", password_file, "-E", "UTF8", "--no-locale",
             "--no-sync", "-D", data], capture_output=True, text=True, cwd=self.dir, **as_user)
        if initdb.returncode:
            raise CannotRun(f"initdb: {initdb.stderr}")
        self.postgres_port = free_port()
        settings = {
            "listen_addresses": "127.0.0.1", "port": self.postgres_port, "unix_socket_directories": "", "max_connections": 200,
            "shared_buffers": "256MB", "fsync": "off", "autovacuum": "off", "max_wal_size": "4GB",
        }
        self._spawn("postgres", [self.bin / "postgres", "-D", data, *[x for k, v in settings.items() for x in ("-c", f"{k}={v}")]])
        self._wait("postgres", self.postgres_port)
        superuser = self.connection("direct") | {"PGUSER": "postgres", "PGDATABASE": "postgres"}
        deadline = time.monotonic() + 30
        while True:
            try:  # it listens before it lets anyone in
                self.psql("SELECT 1", **superuser)
                break
            except CannotRun:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        self.psql(
            f"CREATE ROLE bench_app LOGIN PASSWORD '{PASSWORD}'; CREATE ROLE bench_owner LOGIN PASSWORD '{PASSWORD}';"
            "CREATE DATABASE bench OWNER bench_owner;".replace(";", ";\n"), **superuser)
        if self.prepare:
            self.psql(self.prepare, **(superuser | {"PGDATABASE": "bench"}))
        self.psql(self.schema, **(superuser | {"PGDATABASE": "bench", "PGUSER": "bench_owner"}))

    def _start_pgbouncer(self):
        self.pgbouncer_port = free_port()
        program = shutil.copy(pgbouncer(), self.dir / "pgbouncer")  # its user may not see where it was built
        (self.dir / "users.txt").write_text(f'"bench_app" "{PASSWORD}"\n"bench_rls" "{PASSWORD}"\n')
        upstream = f"host=127.0.0.1 port={self.postgres_port} dbname=bench"
        (self.dir / "pgbouncer.ini").write_text(
            f"[databases]\nbench = {upstream} pool_mode=transaction\nbench_session = {upstream} pool_mode=session\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.pgbouncer_port}\nunix_socket_dir =\nauth_type = scram-sha-256\n"
            f"auth_file = users.txt\ndefault_pool_size = {POOL_SIZE}\nmax_client_conn = 12000\nlog_connections = 0\nlog_disconnections = 0\n"
            "ignore_startup_parameters = extra_float_digits\nmax_prepared_statements = 200\n")
        self._spawn("pgbouncer", [program, "pgbouncer.ini"])
        self._wait("pgbouncer", self.pgbouncer_port)

    def another_bulkhead(self, name, port, environment):
        """The process of one more with the same configuration, but for what the environment says."""
        environment = environment | {"BULKHEAD_SERVER_LISTEN": f"127.0.0.1:{port}", "BULKHEAD_SERVER_ADMIN_LISTEN": "off"}
        self._spawn(name, [self.bulkhead, "serve", "--config", self.dir / "proxy.toml"], environment)
        self._wait(name, port)
        return self.children[name].pid

    def _start_bulkhead(self):
        if not self.bulkhead.exists():
            raise CannotRun(f"{self.bulkhead} is not built (make bench builds it)")
        self.bulkhead_port = free_port()
        (self.dir / "policies").mkdir()
        (self.dir / "policies" / "bench.toml").write_text(self.policy)
        upstream = f":{PASSWORD}@127.0.0.1:{self.postgres_port}/bench?sslmode=disable"
        (self.dir / "proxy.toml").write_text(
            f'[server]\nlisten = "127.0.0.1:{self.bulkhead_port}"\nadmin_listen = "127.0.0.1:{free_port()}"\npolicies = "{self.dir}/policies"\n'
            + "".join(f'[[database]]\nname = "{name}"\nupstream = "postgres://bench_app{upstream}"\npool_size = {POOL_SIZE}\n{more}'
                      for name, more in (("bench", ""), ("bench_one", "tenant_pool_size = 1\n"))) +
            "[limits]\nmax_clients = 12000\n"
            + "".join(f'[[user]]\nname = "tenant{t}"\npassword = "{PASSWORD}"\ntenant = "{t}"\nroles = ["app"]\n' for t in (1, 2)) +
            f'[[user]]\nname = "owner"\npassword = "{PASSWORD}"\nunrestricted = true\nupstream = "postgres://bench_owner{upstream}"\n'
            + self.config)
        self._spawn("bulkhead", [self.bulkhead, "serve", "--config", self.dir / "proxy.toml"])
        self._wait("bulkhead", self.bulkhead_port)
