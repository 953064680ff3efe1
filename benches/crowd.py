#!/usr/bin/env python3
"""What many clients cost: the memory of those that are idle, and what a tenant notices of a greedy one.

  idle       so many clients log in and wait: resident memory each, beyond the process, of Bulkhead and of PgBouncer
  neighbour  a quiet tenant's look-ups (one client, 50 a second) alone, and beside another tenant's 64 clients that do what they
             can: sums of 3,000 rows. p50 and p99; rounds alternate

Prints two tables; writes benches/results_crowd.json.
"""

import argparse
import base64
import hashlib
import hmac
import json
import os
import secrets
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from run import describe, quantile  # noqa: E402
from servers import PASSWORD, ROOT, ROWS_PER_TENANT, CannotRun, Servers  # noqa: E402

QUIET = f"\\set aid random(1, {ROWS_PER_TENANT})\nSELECT abalance FROM accounts WHERE aid = :aid;\n"
GREEDY = (f"\\set aid random(1, {ROWS_PER_TENANT - 3000})\n"
          "SELECT sum(abalance) FROM accounts WHERE aid BETWEEN :aid AND :aid + 3000;\n")


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--idle", type=int, default=10_000, help="clients that wait")
    p.add_argument("--seconds", type=int, default=6, help="length of one run beside a neighbour")
    p.add_argument("--pairs", type=int, default=3)
    p.add_argument("--greedy", type=int, default=64, help="clients of the greedy tenant")
    p.add_argument("--bulkhead", type=Path, default=ROOT / "target/release/bulkhead")
    p.add_argument("--output", type=Path, default=ROOT / "benches/results_crowd.json")
    return p.parse_args()


def main():
    args = arguments()
    try:
        with Servers(("pgbouncer", "bulkhead"), args.bulkhead) as servers:
            machine = describe(servers)
            idle = {name: idle_clients(servers, name, args.idle) for name in ("bulkhead", "pgbouncer")}
            neighbour = neighbours(servers, args)
    except CannotRun as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    args.output.write_text(json.dumps({"machine": machine, "idle": idle, "neighbour": neighbour}, indent=1) + "\n")
    print("\n| idle clients | resident memory before | with them | a client |\n|---|---:|---:|---:|")
    for name, of in idle.items():
        print(f"| {name}, {of['clients']:,} | {of['before_kib']:,} KiB | {of['after_kib']:,} KiB | {of['each_bytes'] / 1024:.1f} KiB |")
    print("\n| quiet tenant | p50 ms | p99 ms | statements of the greedy one /s |\n|---|---:|---:|---:|")
    for name, runs in neighbour.items():
        middle = {k: statistics.median(r[k] for r in runs) for k in ("p50_us", "p99_us", "greedy_tps")}
        print(f"| {name} | {middle['p50_us'] / 1000:.2f} | {middle['p99_us'] / 1000:.2f} | {middle['greedy_tps']:.0f} |")
    return 0


# Idle clients

def idle_clients(servers, name, count):
    pid = servers.pid(name)
    where = servers.connection(name)
    clients = [log_in(where)]  # what the first client costs is the process's
    before = resident_kib(pid)
    try:
        for _ in range(count):
            clients.append(log_in(where))
        time.sleep(1)
        after = resident_kib(pid)
    finally:
        for client in clients:
            client.close()
    return {"clients": count, "before_kib": before, "after_kib": after, "each_bytes": (after - before) * 1024 / count}


def resident_kib(pid):
    return int(next(line for line in open(f"/proc/{pid}/status") if line.startswith("VmRSS")).split()[1])


def log_in(where):
    """A client that has logged in by SCRAM-SHA-256 and waits."""
    client = socket.create_connection((where["PGHOST"], int(where["PGPORT"])))
    body = struct.pack("!i", 196608) + b"".join(
        f"{k}\0{v}\0".encode() for k, v in (("user", where["PGUSER"]), ("database", where["PGDATABASE"]))) + b"\0"
    client.sendall(struct.pack("!i", len(body) + 4) + body)
    nonce = base64.b64encode(secrets.token_bytes(18)).decode()
    first = f"n=,r={nonce}"
    reader = client.makefile("rb", buffering=4096)
    while True:
        kind, body = message(reader)
        if kind == b"E":
            raise CannotRun(f"log in: {body!r}")
        if kind == b"Z":
            return client
        if kind != b"R":
            continue
        step = struct.unpack("!i", body[:4])[0]
        if step == 10:
            answer = f"n,,{first}".encode()
            send(client, b"SCRAM-SHA-256\0" + struct.pack("!i", len(answer)) + answer)
        elif step == 11:
            send(client, proof(first, body[4:].decode()))


def message(reader):
    head = reader.read(5)
    if len(head) < 5:
        raise CannotRun("log in: the connection was closed")
    return head[:1], reader.read(struct.unpack("!i", head[1:])[0] - 4)


def send(client, body):
    client.sendall(b"p" + struct.pack("!i", len(body) + 4) + body)


SALTED = {}


def proof(first, server_first):
    fields = dict(part.split("=", 1) for part in server_first.split(","))
    salt = (fields["s"], fields["i"])
    if salt not in SALTED:
        SALTED[salt] = hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), base64.b64decode(fields["s"]), int(fields["i"]))
    key = hmac.digest(SALTED[salt], b"Client Key", "sha256")
    last = f"c=biws,r={fields['r']}"
    signature = hmac.digest(hashlib.sha256(key).digest(), f"{first},{server_first},{last}".encode(), "sha256")
    return f"{last},p={base64.b64encode(bytes(a ^ b for a, b in zip(key, signature))).decode()}".encode()


# Neighbours

def neighbours(servers, args):
    runs = {"alone": [], "beside a greedy one": []}
    for _ in range(args.pairs):
        for name, of in runs.items():
            run = one_run(servers, args, 0 if name == "alone" else args.greedy)
            of.append(run)
            print(f"{name:20} p50 {run['p50_us']:6.0f} us  p99 {run['p99_us']:6.0f} us", flush=True)
    return runs


def one_run(servers, args, greedy):
    with tempfile.TemporaryDirectory(prefix="bulkhead-bench-run-") as directory:
        directory = Path(directory)
        (directory / "quiet.sql").write_text(QUIET)
        (directory / "greedy.sql").write_text(GREEDY)

        def pgbench(name, clients, seconds, *more):
            command = [servers.bin / "pgbench", "-n", "-c", clients, "-j", 1, "-T", seconds, "-f", directory / f"{name}.sql", *more]
            contender = "bulkhead" if name == "quiet" else "bulkhead-neighbour"
            return subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                    env=servers.connection(contender))

        beside = pgbench("greedy", greedy, args.seconds + 3) if greedy else None
        time.sleep(2 if greedy else 0)
        quiet = pgbench("quiet", 1, args.seconds, "-R", 50, "--log", "--log-prefix", directory / "log")
        said = [finish(p) for p in (quiet, beside) if p]
        # With a rate, pgbench's latency counts from when a transaction should have begun; its last column tells by how much.
        fields = [line.split() for log in directory.glob("log*") for line in log.open()]
        latencies = sorted(int(f[2]) - int(f[6]) for f in fields)
    tps = float(said[1].split("tps = ")[1].split()[0]) if beside else 0.0
    return {"p50_us": quantile(latencies, 0.5), "p99_us": quantile(latencies, 0.99), "greedy_tps": tps}


def finish(process):
    out, errors = process.communicate(timeout=120)
    if process.returncode:
        raise CannotRun(f"pgbench: {errors.strip()[-800:]}")
    return out


if __name__ == "__main__":
    sys.exit(main())
