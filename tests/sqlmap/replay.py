#!/usr/bin/env python3
"""Sends again what an attack has sent, to the shop and to one where nobody else has any rows, and compares each answer.

    python3 tests/sqlmap/replay.py --log FILE --url URL --alone URL

A canary needs eleven letters to be seen; this sees a leak of a single bit, also in an error, and in statements that sqlmap made
nothing of. Both URLs lead through Bulkhead, to databases that differ in rows of others alone. Statements run in the order of the
log, one at a time. Prints one object of JSON.
"""

import argparse
import json
import re

from app import Pool

SLOW = 0.4  # seconds: such a statement is there to take time, and would take it twice again
RECORD = re.compile(r"bulkhead why [0-9a-f]{8}")  # of each refusal, a random one
TELL = 2  # differences that are told in full


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--log", required=True, help="the application's")
    args.add_argument("--url", required=True)
    args.add_argument("--alone", required=True)
    args = args.parse_args()
    shared, alone = Pool(args.url), Pool(args.alone)
    compared, differences = 0, []
    for sql in statements(args.log):
        answers = [answer(pool, sql) for pool in (shared, alone)]
        compared += 1
        if answers[0] != answers[1]:
            differences.append({"sql": sql, "shared": answers[0], "alone": answers[1]})
    print(json.dumps({"compared": compared, "differ": len(differences), "differences": differences[:TELL]}))


def statements(path):
    """A statement comes once for each time in a row: the same question has the same answer."""
    before = None
    with open(path) as f:
        for line in f:
            entry = json.loads(line)
            if entry["sql"] != before and entry["seconds"] < SLOW:
                yield entry["sql"]
            before = entry["sql"]


def answer(pool, sql):
    rows, state, message = pool.run(sql)
    return [[str(value) for value in row] for row in rows], state, RECORD.sub("", message)


if __name__ == "__main__":
    main()
