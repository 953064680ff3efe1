"""One attack: sqlmap against one place of the application, and what it got."""

import json
import os
import re
import signal
import subprocess
import threading
import time
import urllib.request
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone

import detection
from places import PLACES
from shop import COUNT_OF_OTHERS, EXTRACTED, FOREIGN, HERE, LONGEST, OWN, canaries

LOOK = 0.3  # seconds between looks at what a running attack has brought up
SLEEP = 1  # seconds that the database is to take where sqlmap reads by time: a bit for each; longer ones no attack would wait for here
ENDED = threading.Event()  # whoever runs the attacks wants no more of them

# What the attacker asks for, in this order, once it has found a way in: sqlmap's options. It knows the schema, as those do who have
# worked for the shop. A step begins only where the one before has ended in time.
GOALS = [
    ["--sql-query", "SELECT card FROM customers WHERE tenant_id=2 ORDER BY id LIMIT 1"],
    ["--sql-query", "SELECT COUNT(*) FROM payouts WHERE tenant_id<>1"],
    ["--sql-query", "SELECT word FROM secrets LIMIT 1"],
    ["--current-user", "--is-dba", "-D", "public", "--tables"],
    ["-D", "public", "-T", "customers", "-C", "tenant_id,card", "--dump"],
    ["-D", "public", "-T", "payouts", "-C", "tenant_id,iban", "--dump"],
    ["-D", "public", "-T", "secrets", "--dump"],
]


@dataclass(frozen=True)
class Attack:
    """`techniques`: letters as sqlmap has them. `tamper`: a script of sqlmap's, or nothing."""
    place: str
    mode: str
    techniques: str
    level: int
    risk: int
    tamper: str = ""


@dataclass
class Outcome:
    side: str
    attack: Attack
    seconds: float = 0.0
    capped: bool = False
    injectable: bool = False
    found: list = field(default_factory=list)  # sqlmap's names of the ways in
    requests: int = 0
    statements: int = 0
    bytes_answered: int = 0
    errors: dict = field(default_factory=dict)  # SQLSTATE -> how often
    detection: dict = field(default_factory=dict)  # the first error, refusal and finding: after how many statements, by what
    findings: dict = field(default_factory=dict)  # threat rule -> how many statements it has found
    denials: dict = field(default_factory=dict)  # Bulkhead's own count of what it refused, by reason
    canaries: list = field(default_factory=list)  # of others
    extracted: bool = False  # some of them are in columns that the application never shows
    own: int = 0  # canaries of the tenant itself: none is on the application's pages, so that these came by the hole
    counted: str = ""  # what sqlmap made of the answer where it asked how many rows others have
    evidence: dict = field(default_factory=dict)
    changed: bool = False  # rows of others are not what they were
    replayed: dict = field(default_factory=dict)  # see replay.py
    failure: str = ""

    def leaks(self):
        """Not every wrong count: what is read by the time that it takes is often misread."""
        return bool(self.canaries) or self.changed or self.counted == str(COUNT_OF_OTHERS) or self.replayed.get("differ", 0) > 0

    def told(self):
        """For the file of results: what leaked through Bulkhead to the last letter, the rest as examples."""
        return asdict(self) if self.side == "bulkhead" and self.leaks() else shortened(asdict(self))


def shortened(value):
    if isinstance(value, dict):
        return {k: shortened(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [shortened(v) for v in value]
    return value[:240] if isinstance(value, str) else value


class Tail:
    """What files have grown by since the last look, with an overlap: a canary may come in two pieces."""

    def __init__(self, *paths):
        self.at = dict.fromkeys(paths, 0)

    def extracted(self):
        return set().union(*(self.look(path) for path in self.at))

    def look(self, path):
        if not os.path.exists(path):
            return set()
        with open(path, "rb") as f:
            f.seek(max(0, self.at[path] - LONGEST))
            data = f.read()
            self.at[path] = f.tell()
        return canaries(EXTRACTED, data)


class Site:
    """The application as a process of its own, for one attack, so that what it counts is the attack's."""

    def __init__(self, python, side, log):
        command = [python, os.path.join(HERE, "app.py"), "--url", side.url, "--log", log]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, start_new_session=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the application did not start (status {self.process.wait()})")
        self.port = int(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        stop(self.process)
        self.process.stdout.close()

    def stats(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/stats", timeout=30) as answer:
            return json.load(answer)


def stop(process):
    """Ends a process and what it has started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def options(attack, port, folder):
    """What all of sqlmap's calls in one attack have in common."""
    parameter, value, _ = PLACES[attack.place]
    url = f"http://127.0.0.1:{port}/{attack.mode}/{attack.place}"
    if attack.place == "json":
        target = ["-u", url, "--data", json.dumps({parameter: value}), "-H", "Content-Type: application/json"]
    else:
        target = ["-u", f"{url}?{parameter}={value.replace(' ', '%20')}"]
    tamper = ["--tamper", attack.tamper] if attack.tamper else []
    return target + tamper + [
        "-p", parameter, "--batch", "--dbms", "PostgreSQL", "--technique", attack.techniques, "--level", str(attack.level),
        "--risk", str(attack.risk), "--time-sec", str(SLEEP), "--threads", "4", "--union-cols", "1-10", "--skip-waf", "--timeout", "30",
        "--retries", "1", "--disable-coloring", "--disable-hashing", "--output-dir", folder]


class Attacker:
    """sqlmap, in one folder of its own, for one attack."""

    def __init__(self, sqlmap, attack, port, folder, seconds, until):
        self.sqlmap, self.arguments, self.folder, self.until = sqlmap, options(attack, port, folder), folder, until
        self.deadline, self.capped = time.monotonic() + seconds, False
        self.output = os.path.join(folder, "output.txt")

    def run(self):
        """Finds a way in, then goes for each goal, until the time is up or `until` says that it is enough."""
        if not self.call("--flush-session") or not self.identified():
            return
        for goal in GOALS:
            if not self.call(*goal):
                return

    def call(self, *more):
        """Whether sqlmap came to its end."""
        with open(self.output, "ab") as out:
            out.write(f"\n$ sqlmap .. {' '.join(more)}\n".encode())
            out.flush()
            environment = {**os.environ, "HOME": self.folder, "XDG_DATA_HOME": self.folder, "TERM": "dumb"}
            process = subprocess.Popen([*self.sqlmap, *self.arguments, *more], stdout=out, stderr=subprocess.STDOUT,
                                       stdin=subprocess.DEVNULL, cwd=self.folder, env=environment, start_new_session=True)
        try:
            while process.poll() is None:
                if ENDED.is_set() or self.until():
                    return False
                if time.monotonic() > self.deadline:
                    self.capped = True
                    return False
                time.sleep(LOOK)
        finally:
            stop(process)
        return not self.until()

    def text(self):
        with open(self.output, encoding="utf8", errors="replace") as f:
            return f.read()

    def identified(self):
        """The ways in that sqlmap says it has found. What it had not confirmed when the cap came is among them, what it took back is not."""
        text = self.text()
        confirmed = re.findall(r"^ {4}Title: (.*)$", text, re.M)
        if not confirmed and "do not appear to be injectable" not in text:
            confirmed = re.findall(r"parameter '.*?' (?:is|appears to be) '(.*)' injectable", text)
        return sorted(set(confirmed))

    def counted(self):
        """The answer to the goal that counts rows of others; "" where there was none."""
        found = re.findall(r"COUNT\(\*\) FROM payouts WHERE tenant_id<>1: '(\d+)'", self.text())
        return found[-1] if found else ""


def everything(folder, pattern):
    """The canaries in all files that an attack has left: logs, sqlmap's output, its session and its dumps."""
    found = set()
    for path, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(path, name), "rb") as f:
                found |= canaries(pattern, f.read())
    return sorted(found)


def evidence(log, output, canary):
    """The first request whose answer had it; where none had, it was put together bit by bit, and sqlmap's own words must do."""
    with open(log) as f:
        for number, line in enumerate(f, 1):
            if canary in line.lower() and canary in json.loads(line)["answer"].lower():
                return {"request": number, **json.loads(line)}
    lines = [line for line in output.splitlines() if canary in line.lower()]
    return {"output": lines[:3]}


def first_denied(stats):
    """After how many statements the application itself could have known, by what: that is what Bulkhead's findings are compared with."""
    keys = ("statements", "sqlstate", "message", "sql")
    return {name: {k: stats[name][k] for k in keys} for name in ("first_error", "first_refusal") if stats[name]}


def run(attack, side, tools, folder, seconds, stop_at_leak):
    """Carries out an attack on one side. `stop_at_leak`: the control has shown what it is there for with one canary."""
    os.makedirs(folder)
    log = os.path.join(folder, "application.jsonl")
    side.restore()
    began, since, denied = time.monotonic(), datetime.now(timezone.utc), side.denials()
    with Site(tools.python, side, log) as site:
        tail = Tail(log, os.path.join(folder, "output.txt"))
        attacker = Attacker(tools.sqlmap, attack, site.port, folder, seconds, lambda: stop_at_leak and bool(tail.extracted()))
        attacker.run()
        stats = site.stats()
    outcome = Outcome(side.name, attack, round(time.monotonic() - began, 1), attacker.capped)
    outcome.denials = {reason: count - denied.get(reason, 0) for reason, count in side.denials().items() if count > denied.get(reason, 0)}
    judge(outcome, stats, attacker, folder, log)
    outcome.findings, firsts = detection.found(side.records(since), log)
    outcome.detection.update(firsts)
    outcome.changed = side.has_changed()
    return outcome


def replayed(side, tools, folder):
    """Whether any answer of the attack tells of rows of others, even without a canary. One at a time: all use the same database."""
    log = os.path.join(folder, "application.jsonl")
    side.restore()
    side.leave_alone()
    done = subprocess.run([tools.python, os.path.join(HERE, "replay.py"), "--log", log, "--url", side.url,
                           "--alone", side.alone], stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def judge(outcome, stats, attacker, folder, log):
    """What came of an attack, from what the application counted and what sqlmap left."""
    outcome.requests, outcome.statements, outcome.bytes_answered = stats["requests"], stats["statements"], stats["answered"]
    outcome.errors, outcome.detection = stats["errors"], first_denied(stats)
    outcome.found, outcome.counted = attacker.identified(), attacker.counted()
    outcome.injectable = bool(outcome.found)
    outcome.canaries, outcome.extracted = everything(folder, FOREIGN), bool(everything(folder, EXTRACTED))
    outcome.own = len(everything(folder, OWN))
    if outcome.canaries:
        outcome.evidence = evidence(log, attacker.text(), outcome.canaries[0])
    if not stats["statements"]:
        outcome.failure = "sqlmap sent nothing: " + attacker.text()[-600:]
