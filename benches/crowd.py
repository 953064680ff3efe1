#!/usr/bin/env python3
"""What many clients and much data cost: memory, waits, handshakes, streams.

  idle       so many clients log in and wait: resident memory each, beyond the process, of Bulkhead and of PgBouncer
  neighbour  a quiet tenant's look-ups (one client, 50 a second) alone, and beside another tenant's 64 clients that do what they
             can: sums of 3,000 rows; then with `tenant_pool_size = 1`. p50 and p99; rounds alternate
  queue      10,000 clients that all want a look-up, over 20 connections to the server: p50, p99, the most that one waited; what of two
             cores the load generator took
  logins     connect, SCRAM, one statement, disconnect; four at a time; rounds alternate
  streams    a result and a COPY of 1 GiB, read as fast as they come, and a COPY of a million rows into a table; rounds alternate.
             The most memory that the proxy had

Prints a table of each; writes benches/results_crowd.json.
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
from run import SCRIPTS, WITH_TENANT, describe, quantile  # noqa: E402
from servers import PASSWORD, POLICY, ROOT, ROWS_PER_TENANT, SCHEMA, CannotRun, Servers  # noqa: E402

QUIET = f"\\set aid random(1, {ROWS_PER_TENANT})\nSELECT abalance FROM accounts WHERE aid = :aid;\n"
GREEDY = (f"\\set aid random(1, {ROWS_PER_TENANT - 3000})\n"
          "SELECT sum(abalance) FROM accounts WHERE aid BETWEEN :aid AND :aid + 3000;\n")


PEERS = ("direct", "pgbouncer", "bulkhead")
STREAMS = ("SELECT", "COPY TO", "COPY FROM")
COPIED = "CREATE UNLOGGED TABLE copied (tenant_id int NOT NULL, id int NOT NULL, note text);\nGRANT SELECT, INSERT ON copied TO bench_app;\n"
COPIED_POLICY = '[[table]]\nname = "public.copied"\nscope = "tenant"\ntenant_column = "tenant_id"\n'


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
        with Servers(PEERS, args.bulkhead, SCHEMA + COPIED, POLICY + COPIED_POLICY) as servers:
            machine = describe(servers)
            idle = {name: idle_clients(servers, name, args.idle) for name in ("bulkhead", "pgbouncer")}
            neighbour = neighbours(servers, args)
            queue = {name: queue_of(servers, name, args.idle) for name in ("bulkhead", "pgbouncer")}
            logins = alternate(args.pairs, PEERS[1:], lambda name: log_ins(servers, name, args.seconds))
            streamed = {what: alternate(args.pairs, PEERS, lambda name, what=what: stream(servers, name, what)) for what in STREAMS}
            most = {name: peak_kib(servers.pid(name)) for name in PEERS[1:]}
    except CannotRun as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    args.output.write_text(json.dumps({"machine": machine, "idle": idle, "neighbour": neighbour, "queue": queue, "logins": logins,
                                       "streams": streamed, "peak_kib": most}, indent=1) + "\n")
    print("\n| idle clients | resident memory before | with them | a client |\n|---|---:|---:|---:|")
    for name, of in idle.items():
        print(f"| {name}, {of['clients']:,} | {of['before_kib']:,} KiB | {of['after_kib']:,} KiB | {of['each_bytes'] / 1024:.1f} KiB |")
    print("\n| quiet tenant | p50 ms | p99 ms | statements of the greedy one /s |\n|---|---:|---:|---:|")
    for name, runs in neighbour.items():
        middle = {k: statistics.median(r[k] for r in runs) for k in ("p50_us", "p99_us", "greedy_tps")}
        print(f"| {name} | {middle['p50_us'] / 1000:.2f} | {middle['p99_us'] / 1000:.2f} | {middle['greedy_tps']:.0f} |")
    print("\n| clients that all ask | statements /s | p50 ms | p99 ms | p99 : p50 | longest ms | load generator's CPU |\n|---|---:|---:|---:|---:|---:|---:|")
    for name, of in queue.items():
        print(f"| {name}, {of['clients']:,} | {of['tps']:,.0f} | {of['p50_us'] / 1000:.0f} | {of['p99_us'] / 1000:.0f} | "
              f"{of['p99_us'] / of['p50_us']:.2f} | {of['longest_us'] / 1000:.0f} | {of['generator']:.0%} |")
    print("\n| | " + " | ".join(PEERS) + " | Bulkhead : PgBouncer |\n|---|" + "---:|" * (len(PEERS) + 1))
    for what, of in ({"logins /s": logins} | {f"{what}, MiB/s": of for what, of in streamed.items()}).items():
        cells = [f"{statistics.median(of[name]):,.0f}" if name in of else "-" for name in PEERS]
        print(f"| {what} | " + " | ".join(cells) + f" | {statistics.median(b / p for b, p in zip(of['bulkhead'], of['pgbouncer'])):.2f} |")
    print("\nMost memory after all of it: " + ", ".join(f"{name} {kib:,} KiB" for name, kib in most.items()))
    return 0


def alternate(rounds, names, measure):
    """What is measured of each name, in rounds that begin with another one each time."""
    of = {name: [] for name in names}
    for round_ in range(rounds):
        turn = round_ % len(names)
        for name in (*names[turn:], *names[:turn]):
            of[name].append(measure(name))
            print(f"{name:10} {of[name][-1]:9,.0f}", flush=True)
    return of


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
    cases = {"alone": ("bulkhead", 0), "beside a greedy one": ("bulkhead", args.greedy), "beside one that has one connection": ("bulkhead-one", args.greedy)}
    runs = {name: [] for name in cases}
    for _ in range(args.pairs):
        for name, of in runs.items():
            run = one_run(servers, args, *cases[name])
            of.append(run)
            print(f"{name:34} p50 {run['p50_us']:6.0f} us  p99 {run['p99_us']:6.0f} us", flush=True)
    return runs


def one_run(servers, args, contender, greedy):
    with tempfile.TemporaryDirectory(prefix="bulkhead-bench-run-") as directory:
        directory = Path(directory)
        (directory / "quiet.sql").write_text(QUIET)
        (directory / "greedy.sql").write_text(GREEDY)

        def pgbench(name, clients, seconds, *more):
            command = [servers.bin / "pgbench", "-n", "-c", clients, "-j", 1, "-T", seconds, "-f", directory / f"{name}.sql", *more]
            where = servers.connection(contender if name == "quiet" else f"{contender}-neighbour")
            return subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                    env=where)

        beside = pgbench("greedy", greedy, args.seconds + 3) if greedy else None
        time.sleep(2 if greedy else 0)
        quiet = pgbench("quiet", 1, args.seconds, "-R", 50, "--log", "--log-prefix", directory / "log")
        said = [finish(p) for p in (quiet, beside) if p]
        # With a rate, pgbench's latency counts from when a transaction should have begun; its last column tells by how much.
        fields = [line.split() for log in directory.glob("log*") for line in log.open()]
        latencies = sorted(int(f[2]) - int(f[6]) for f in fields)
    tps = float(said[1].split("tps = ")[1].split()[0]) if beside else 0.0
    return {"p50_us": quantile(latencies, 0.5), "p99_us": quantile(latencies, 0.99), "greedy_tps": tps}


# Clients that all ask

def queue_of(servers, name, clients):
    with tempfile.TemporaryDirectory(prefix="bulkhead-bench-run-") as directory:
        script = Path(directory) / "select.sql"
        script.write_text(SCRIPTS.get(name, WITH_TENANT))
        command = [servers.bin / "pgbench", "-n", "-c", clients, "-j", 2, "-t", 20, "-f", script, "--log", "--log-prefix", Path(directory) / "log"]
        before = os.times()
        said = finish(subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=servers.connection(name)))
        after = os.times()
        latencies = sorted(int(line.split()[2]) for log in Path(directory).glob("log*") for line in log.open())
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    tps = float(said.split("tps = ")[1].split()[0])
    run = {"clients": clients, "tps": tps, "p50_us": quantile(latencies, 0.5), "p99_us": quantile(latencies, 0.99), "longest_us": latencies[-1],
           "generator": cpu / (after.elapsed - before.elapsed) / os.cpu_count()}
    print(f"{name:10} {tps:9,.0f}/s", flush=True)
    return run


# Logins

def log_ins(servers, name, seconds):
    with tempfile.TemporaryDirectory(prefix="bulkhead-bench-run-") as directory:
        script = Path(directory) / "select.sql"
        script.write_text(SCRIPTS.get(name, WITH_TENANT))
        command = [servers.bin / "pgbench", "-n", "-C", "-c", 4, "-j", 2, "-T", seconds, "-f", script]
        said = finish(subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=servers.connection(name)))
    return float(said.split("tps = ")[1].split()[0])


# Streams

def stream(servers, name, what):
    """MiB a second."""
    where = servers.connection(name)
    governed = name == "bulkhead"
    client = log_in(where)
    buffer = bytearray(1 << 20)
    began = time.monotonic()
    if what == "COPY FROM":
        count = copy_in(client, "copied (id, note)" if governed else "copied (tenant_id, id, note)", governed)
    else:
        rows = "SELECT a.aid, repeat('x', 1000) AS filler FROM accounts a, generate_series(1, 10) WHERE a.aid > 0" + ("" if governed else " AND a.tenant_id = 1")
        count = query(client, rows if what == "SELECT" else f"COPY ({rows}) TO STDOUT", buffer)
    took = time.monotonic() - began
    client.close()
    if what == "COPY FROM":
        servers.psql("TRUNCATE copied", **(servers.connection("direct") | {"PGUSER": "bench_owner"}))
    return count / took / (1 << 20)


def query(client, sql, buffer):
    """Bytes of the answer, read up to ReadyForQuery."""
    client.sendall(b"Q" + struct.pack("!i", len(sql) + 5) + sql.encode() + b"\0")
    count, last = 0, b""
    while not last.endswith(b"Z\0\0\0\5I"):
        read = client.recv_into(buffer)
        if read == 0:
            raise CannotRun(f"the connection was closed after {count} bytes of {sql}")
        count += read
        last = (last + bytes(buffer[max(0, read - 6):read]))[-6:]
    if count < 1 << 20 and "SELECT" in sql:
        raise CannotRun(f"{sql}: {count} bytes")
    return count


def copy_in(client, table, governed):
    rows = 1_000_000
    sql = f"COPY {table} FROM STDIN"
    client.sendall(b"Q" + struct.pack("!i", len(sql) + 5) + sql.encode() + b"\0")
    reader = client.makefile("rb", buffering=4096)
    if (kind := message(reader))[0] != b"G":
        raise CannotRun(f"{sql}: {kind}")
    count, tenant = 0, "" if governed else "1\t"
    for first in range(0, rows, 1000):
        data = "".join(f"{tenant}{n}\tnote of row {n}\n" for n in range(first, first + 1000)).encode()
        client.sendall(b"d" + struct.pack("!i", len(data) + 4) + data)
        count += len(data)
    client.sendall(b"c\0\0\0\4")
    while (got := message(reader))[0] != b"Z":
        if got[0] == b"E":
            raise CannotRun(f"{sql}: {got[1]!r}")
    return count


def peak_kib(pid):
    return int(next(line for line in open(f"/proc/{pid}/status") if line.startswith("VmHWM")).split()[1])


def finish(process):
    out, errors = process.communicate(timeout=300)
    if process.returncode:
        raise CannotRun(f"pgbench: {errors.strip()[-800:]}")
    return out


if __name__ == "__main__":
    sys.exit(main())
