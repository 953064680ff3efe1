#!/usr/bin/env python3
"""Instructions of user space that a statement costs Bulkhead, by callgrind: other work on the machine does not change it, so that growth shows. Another
compiler or processor may.

    python3 benches/instructions.py [--scale] [--update] [--keep DIRECTORY]

One client sends the same kind of statement again and again through a server that runs under valgrind. Counted are all
instructions of the process, from a warm state on, divided by the statements; so are allocations. `benches/instructions.json` holds what was counted last;
exit status 1 where something grew by more than 5 %, and --update writes the file. --scale: the same with many tenants, policies,
literals and templates against few; exit status 1 where many cost more than 3 % more. It takes some minutes.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from run import SCRIPTS, WITH_TENANT  # noqa: E402
from servers import PASSWORD, POLICY, ROOT, SCHEMA, CannotRun, Servers  # noqa: E402

FILE = ROOT / "benches/instructions.json"
GROWTH = 1.05
WARM, COUNTED = 300, 1000
# The whole of a statement, by name: contender, protocol
WHOLE = {f"{name}, {protocol}": (contender, protocol) for name, contender in (("tenant", "bulkhead"), ("relay", "bulkhead-passthrough"))
         for protocol in ("simple", "extended", "prepared")}
# An answer from the result cache: nothing of it is asked of the server.
HITS = {f"hit, {protocol}": ("bulkhead", protocol) for protocol in ("simple", "prepared")}
HIT = "\\set aid random(1, 10)\nSELECT abalance FROM accounts WHERE aid = :aid;\n"
# Parts: one call of a function and of all that it calls; which statements it is counted in.
KNOWN, NEW = "tenant, simple", "new statements"
PARTS = {
    "lexer": (KNOWN, "bulkhead::sql::lexer::lex"),
    "lexer and look-up of a template": (KNOWN, "bulkhead::gate::Gate::review_with"),
    "review of a new statement": (NEW, "bulkhead::gate::State::make_here"),
}
FRESH = 200
# What Rust's allocations are calls of, of the allocator that main.rs chooses.
ALLOCATIONS = ("mi_malloc_aligned", "mi_zalloc_aligned", "mi_realloc_aligned")

MANY_TENANTS, MANY_POLICIES, MANY_LITERALS, MANY_TEMPLATES = 100_000, 1_000, 100_000, 10_000
FEW = 10
SCALE_GROWTH = 1.03


class Counted(Servers):
    """Bulkhead under callgrind."""

    PATIENCE = 900

    def _spawn(self, name, command, more=None):
        if name == "bulkhead":
            command = ["valgrind", "-q", "--tool=callgrind", "--compress-strings=no", "--compress-pos=no", "--max-stackframe=16777216", f"--callgrind-out-file={self.dir}/callgrind.out", *command]
        super()._spawn(name, command, more)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--bulkhead", type=Path, default=ROOT / "target/release/bulkhead")
    p.add_argument("--update", action="store_true", help="write what is counted now")
    p.add_argument("--scale", action="store_true", help="many against few")
    p.add_argument("--keep", type=Path, help="leave callgrind's profiles there, for callgrind_annotate")
    args = p.parse_args()
    if args.scale:
        return scale(args)
    try:
        with Counted(("bulkhead",), args.bulkhead) as servers:
            profiles = {name: profile(servers, name, args.keep) for name in [*WHOLE, NEW]}
        with Counted(("bulkhead",), args.bulkhead, config="[cache]\nmemory_mb = 64\n") as servers:
            profiles |= {name: profile(servers, name, args.keep) for name in HITS}
        counts = {name: round(profiles[name].total / COUNTED) for name in [*WHOLE, *HITS]}
        counts |= {name: profiles[case].call(function) for name, (case, function) in PARTS.items()}
        counts |= {f"{name}, allocations": round(profiles[name].number(ALLOCATIONS) / COUNTED, 1) for name in [*WHOLE, *HITS]}
    except CannotRun as error:
        print(f"instructions: {error}", file=sys.stderr)
        return 2
    return report(counts, args.update)


def report(counts, update):
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    # A login's allocations are among those of so many statements.
    slack = lambda name: 0.5 if name.endswith("allocations") else 0  # noqa: E731
    grown = [name for name, count in counts.items() if count > known.get(name, count) * GROWTH + slack(name)]
    for name, count in counts.items():
        before = f"{known[name]:9,} before ({count / known[name] - 1:+.1%})" if name in known else "   not known before"
        print(f"{name:34} {count:9,}  {before}{'  GROWN' if name in grown else ''}")
    if update:
        FILE.write_text(json.dumps(counts, indent=1) + "\n")
        return 0
    return 1 if grown else 0


def scale(args):
    """Each pair is counted in the same way; only the number of something differs."""
    policy = lambda n: f'[[table]]\nname = "public.t{n}"\nscope = "tenant"\ntenant_column = "tenant_id"\n'  # noqa: E731
    # A verifier that nothing needs to be derived for (what is derived would be counted).
    scram = f"SCRAM-SHA-256$4096:{'A' * 22}==${'A' * 43}=:{'A' * 43}="
    user = lambda n: f'[[user]]\nname = "user{n}"\nscram = "{scram}"\ntenant = "{n}"\nroles = ["app"]\n'  # noqa: E731
    tables = SCHEMA + "".join(f"CREATE TABLE t{n} (tenant_id int NOT NULL, id int NOT NULL, PRIMARY KEY (tenant_id, id));\n" for n in range(MANY_POLICIES))
    users = "".join(user(n) for n in range(10, MANY_TENANTS))
    by_key = "SELECT abalance FROM accounts WHERE aid = :aid;\n"
    ratios = {}

    def counted(servers, most, select, warm=WARM):
        script = f"\\set aid random(1, {most})\n{select}"
        pid = servers.pid("bulkhead")
        run(servers, "bulkhead", "simple", warm, script)
        control(pid, "--zero")
        run(servers, "bulkhead", "simple", COUNTED, script)
        control(pid, "--dump")
        return taken(servers, None).total / COUNTED

    def compare(name, few, many):
        ratios[name] = many / few
        print(f"{name:44} {few:9,.0f} {many:9,.0f}  {many / few:.3f}", flush=True)

    try:
        with Counted(("bulkhead",), args.bulkhead) as servers:
            plain = counted(servers, FEW, by_key)
            compare(f"{FEW} and {MANY_LITERALS:,} literals", plain, counted(servers, MANY_LITERALS, by_key))
            aliased = by_key.replace("abalance", "abalance AS a:aid").replace("= :aid", "= 1")
            few = counted(servers, FEW, aliased)
            every = "".join(f"SELECT abalance AS a{n} FROM accounts WHERE aid = 1;\n" * 6 for n in range(1, MANY_TEMPLATES + 1))
            servers.psql(every, **servers.connection("bulkhead"))
            compare(f"{FEW} and {MANY_TEMPLATES:,} templates", few, counted(servers, MANY_TEMPLATES, aliased))
            compare(f"the same statement beside {MANY_TEMPLATES:,} others", plain, counted(servers, FEW, by_key))
        with Counted(("bulkhead",), args.bulkhead, tables, POLICY + "".join(map(policy, range(MANY_POLICIES)))) as servers:
            compare(f"1 and {MANY_POLICIES:,} policies", plain, counted(servers, FEW, by_key))
        with Counted(("bulkhead",), args.bulkhead, config=users) as servers:
            compare(f"2 and {MANY_TENANTS:,} tenants", plain, counted(servers, FEW, by_key))
    except CannotRun as error:
        print(f"instructions: {error}", file=sys.stderr)
        return 2
    return 1 if any(ratio > SCALE_GROWTH for ratio in ratios.values()) else 0


class Profile:
    """What callgrind wrote, by the names of functions (https://valgrind.org/docs/manual/cl-format.html)."""

    def __init__(self, text):
        self.total = int(re.search(r"(?m)^(?:summary|totals): (\d+)", text)[1])
        self.calls, self.cost = {}, {}
        callee, count = None, 0
        for line in text.splitlines():
            if line.startswith("cfn="):
                callee = line[4:]
            elif line.startswith("calls="):
                count = int(line[6:].split()[0])
            elif count:
                self.calls[callee] = self.calls.get(callee, 0) + count
                self.cost[callee] = self.cost.get(callee, 0) + int(line.split()[-1])
                count = 0

    def number(self, functions):
        """How often these were called."""
        return sum(self.calls.get(function, 0) for function in functions)

    def call(self, function):
        """Instructions of one call, its callees' among them."""
        if function not in self.calls:
            raise CannotRun(f"{function} is not called, or has become part of its caller")
        return round(self.cost[function] / self.calls[function])


def profile(servers, name, keep):
    pid = servers.pid("bulkhead")
    if name == NEW:
        control(pid, "--zero")
        select = "".join(f"SELECT abalance AS a{n} FROM accounts WHERE aid = 1;\n" for n in range(FRESH))
        servers.psql(select, **servers.connection("bulkhead"))
    else:
        whole, script = (HITS, HIT) if name in HITS else (WHOLE, None)
        run(servers, *whole[name], WARM, script)
        control(pid, "--zero")
        run(servers, *whole[name], COUNTED, script)
    control(pid, "--dump")
    return taken(servers, keep and keep / name.replace(", ", "-").replace(" ", "-"))


def taken(servers, keep):
    """The profile that callgrind has just dumped."""
    dumps = sorted(servers.dir.glob("callgrind.out.*"), key=lambda p: int(p.suffix[1:].split("-")[0]))
    text = dumps[-1].read_text()
    if keep:
        keep.parent.mkdir(parents=True, exist_ok=True)
        keep.write_text(text)
    for dump in dumps:
        dump.unlink()
    return Profile(text)


def run(servers, contender, protocol, statements, script=None):
    with tempfile.TemporaryDirectory(prefix="bulkhead-bench-run-") as directory:
        file = Path(directory) / "select.sql"
        file.write_text(script or SCRIPTS.get(contender, WITH_TENANT))
        command = [servers.bin / "pgbench", "-n", "-M", protocol, "-c", 1, "-t", statements, "-f", file]
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=servers.connection(contender), timeout=300)
        if done.returncode:
            raise CannotRun(f"pgbench: {done.stderr.strip()[-1500:]}")


def control(pid, what):
    done = subprocess.run(["callgrind_control", what, str(pid)], capture_output=True, text=True, env=os.environ)
    if done.returncode:
        raise CannotRun(f"callgrind_control {what}: {done.stdout}{done.stderr}")


if __name__ == "__main__":
    sys.exit(main())
