#!/usr/bin/env python3
"""PostgreSQL's own regression suite through Bulkhead, as an unrestricted user: the output must be what it is without Bulkhead.

    python3 tests/regress/suite.py [--only NAME]... [--source DIR] [--keep]

Runs the files of parallel_schedule one after the other with psql, as pg_regress does, on a fresh server directly and on another
one through Bulkhead, and compares what psql printed, file by file. What differs between two direct runs is noise and is not counted: each
file that differs is judged against a second direct run. Differences that are known and harmless stand in `suite_differs.txt`, one by one.
The suite comes from Debian's source package of the installed version (.ci/source), or from --source.
BULKHEAD_BIN names the proxy (default target/debug/bulkhead). Exit status: 0 same output, 1 other differences, 2 could not run.
"""

import argparse
import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(HERE.parent / "drivers"))

from cluster import BIN, Server, as_postgres, free_port, quiet  # noqa: E402

KNOWN = HERE / "suite_differs.txt"
CONF = """
listen_addresses = '127.0.0.1'
fsync = off
max_prepared_transactions = 2
max_connections = 60
log_autovacuum_min_duration = 0
"""
# As pg_regress sets them (pg_regress.c, initialize_environment).
ENVIRONMENT = {"PGTZ": "PST8PDT", "PGDATESTYLE": "Postgres, MDY", "PGOPTIONS": "-c intervalstyle=postgres_verbose", "LC_MESSAGES": "C"}


class CannotRun(Exception):
    """Something is missing; the text says what."""


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", action="append", default=[], help="this file and test_setup; may be given again")
    p.add_argument("--source", type=Path, help="a source tree of PostgreSQL of the installed version")
    p.add_argument("--keep", action="store_true", help="leave the outputs in target/regress/outputs")
    return p.parse_args()


def main():
    args = arguments()
    try:
        suite = (args.source or fetch()) / "src/test/regress"
        names = schedule(suite, args.only)
        runs = {}
        with tempfile.TemporaryDirectory(prefix="bulkhead-regress-") as directory:
            if os.getuid() == 0:
                shutil.chown(directory, "postgres", "postgres")
            root = Path(directory)
            library = compile_library(suite, root)
            for name in ("direct", "again", "proxied"):
                runs[name] = Run(root, name, suite, library).all(names)
    except CannotRun as error:
        print(f"regress: {error}", file=sys.stderr)
        return 2
    if args.keep:
        keep(runs)
    return report(names, runs)


def fetch():
    """The source tree of the installed version."""
    version = re.search(r"\d+\.\d+", subprocess.run([f"{BIN}/postgres", "--version"], capture_output=True, text=True).stdout)[0]
    command = [ROOT / ".ci/source", f"postgresql-{version.split('.')[0]}", "--version", version]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if found.returncode:
        raise CannotRun("name a source tree with --source")
    return Path(found.stdout.strip())


def schedule(suite, only):
    tests = []
    for line in (suite / "parallel_schedule").read_text().splitlines():
        if line.startswith("test:"):
            tests += line.removeprefix("test:").split()
    return [t for t in tests if not only or t in only or t == "test_setup"]


def compile_library(suite, root):
    """regress.so, which some files load; without the server's headers they fail alike on both sides."""
    headers = Path("/usr/include/postgresql") / BIN.split("/")[-2] / "server"
    library = root / "regress.so"
    if headers.is_dir():
        subprocess.run(["cc", "-shared", "-fPIC", "-w", f"-I{headers}", str(suite / "regress.c"), "-o", str(library)], check=False)
        os.path.exists(library) and os.chmod(library, 0o755)
    return root


class Run:
    """The suite on a fresh server, directly or through Bulkhead."""

    def __init__(self, root, name, suite, libraries):
        self.root, self.name, self.suite, self.libraries = root, name, suite, libraries
        self.server = Server(str(root), "data")
        self.proxy = None

    def all(self, names):
        quiet([f"{BIN}/initdb", "-D", self.server.data, "-U", "postgres", "--no-locale", "-E", "UTF8", "--no-sync"], cwd=self.root, **as_postgres())
        with open(self.server.data + "/postgresql.conf", "a") as f:
            f.write(CONF)
        self.server.start()
        try:
            self.server.sql("CREATE DATABASE regression TEMPLATE template0", database="postgres")
            for setting in ("lc_messages TO 'C'", "lc_monetary TO 'C'", "lc_numeric TO 'C'", "lc_time TO 'C'", "bytea_output TO 'hex'",
                            "timezone_abbreviations TO 'Default'"):
                self.server.sql(f"ALTER DATABASE regression SET {setting}", database="postgres")
            port = self.start_proxy() if self.name == "proxied" else self.server.port
            outputs = {}
            for test in names:
                outputs[test] = self.one(test, port)
                print(f"{self.name:8} {test}", flush=True)
            return outputs
        finally:
            if self.proxy:
                self.proxy.terminate()
                self.proxy.wait(20)
            self.server.stop()
            shutil.rmtree(self.server.data, ignore_errors=True)

    def one(self, test, port):
        results = self.root / "results"
        shutil.rmtree(results, ignore_errors=True)
        results.mkdir()
        os.chmod(results, 0o777)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PG")} | ENVIRONMENT | {
            "PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "postgres", "PGPASSWORD": "regress", "PGDATABASE": "regression", "PGAPPNAME": "pg_regress/" + test,
            "PG_ABS_SRCDIR": str(self.suite), "PG_ABS_BUILDDIR": str(self.root), "PG_LIBDIR": str(self.libraries), "PG_DLSUFFIX": ".so"}
        with open(self.suite / "sql" / f"{test}.sql", "rb") as source:
            done = subprocess.run(
                [f"{BIN}/psql", "-X", "-a", "-q", "-v", "HIDE_TABLEAM=on", "-v", "HIDE_TOAST_COMPRESSION=on"], stdin=source,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, cwd=self.root, timeout=900)
        return done.stdout.decode("utf-8", "replace")

    def start_proxy(self):
        home = self.root / "proxy"
        (home / "policies").mkdir(parents=True)
        port = free_port()
        upstream = f"postgres://postgres@127.0.0.1:{self.server.port}/regression?sslmode=disable"
        (home / "proxy.toml").write_text(
            f'[server]\nlisten = "127.0.0.1:{port}"\nadmin_listen = "127.0.0.1:{free_port()}"\npolicies = "policies"\n'
            f'[[database]]\nname = "regression"\nupstream = "{upstream}"\npool_size = 20\n'
            f'[[user]]\nname = "postgres"\npassword = "regress"\nunrestricted = true\nupstream = "{upstream}"\n')
        binary = os.environ.get("BULKHEAD_BIN", str(ROOT / "target/debug/bulkhead"))
        log = open(self.root / "proxy.log", "w")
        self.proxy = subprocess.Popen([binary, "serve", "--config", "proxy.toml"], cwd=home, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        for _ in range(200):
            ready = subprocess.run([f"{BIN}/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)], check=False)
            if ready.returncode == 0:
                return port
            try:
                self.proxy.wait(0.1)
                break
            except subprocess.TimeoutExpired:
                pass
        raise CannotRun("Bulkhead does not start:\n" + (self.root / "proxy.log").read_text()[-2000:])


def changed(a, b):
    return [line for line in difflib.unified_diff(a.splitlines(), b.splitlines(), "direct", "proxied", n=2, lineterm="")]


def keep(runs):
    for name, outputs in runs.items():
        home = ROOT / "target/regress/outputs" / name
        home.mkdir(parents=True, exist_ok=True)
        for test, output in outputs.items():
            (home / f"{test}.out").write_text(output)


def report(names, runs):
    known = {line.split(":", 1)[0] for line in KNOWN.read_text().splitlines() if line and not line.startswith("#")} if KNOWN.exists() else set()
    noisy, listed, differing = [], [], []
    for test in names:
        lines = changed(runs["direct"][test], runs["proxied"][test])
        if not lines:
            continue
        if runs["direct"][test] != runs["again"][test] and not changed_besides_noise(test, runs):
            noisy.append(test)
        elif test in known:
            listed.append(test)
        else:
            differing.append(test)
            print(f"\n=== {test}\n" + "\n".join(lines[:60]))
    same = len(names) - len(noisy) - len(listed) - len(differing)
    print(f"\n{len(names)} files: {same} give the same output, {len(noisy)} differ only where two direct runs differ as well ({' '.join(noisy) or '-'}), "
          f"{len(listed)} as listed ({' '.join(listed) or '-'}), {len(differing)} otherwise ({' '.join(differing) or '-'})")
    return 1 if differing else 0


def changed_besides_noise(test, runs):
    """Lines of the proxied run that neither of the direct runs has."""
    direct = set(runs["direct"][test].splitlines()) | set(runs["again"][test].splitlines())
    unstable = set(changed(runs["direct"][test], runs["again"][test]))
    return [line for line in runs["proxied"][test].splitlines() if line not in direct and "+" + line not in unstable and not numeric_noise(line, direct)]


def numeric_noise(line, direct):
    """OIDs, times and process numbers."""
    blank = re.sub(r"\d+(\.\d+)?", "#", line)
    return any(re.sub(r"\d+(\.\d+)?", "#", other) == blank for other in direct)


if __name__ == "__main__":
    sys.exit(main())
