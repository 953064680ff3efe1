#!/usr/bin/env python3
"""What threat rules find in attacks that were kept: minutes, not hours, after a rule has changed.

    target/sqlmap/bin/python tests/sqlmap/rules.py RESULTS FOLDER [RESULTS FOLDER ..]

RESULTS and FOLDER are what run.py has written for --results and --keep. The statements of each attack are sent once more in their order,
one at a time, and what was found is written into RESULTS; bytes are those that the application answered then. Minutes pass in seconds
here, so that `failures`, which looks at the clock, finds more. BULKHEAD_BIN as in run.py.
"""

import json
import os
import sys
import time
from datetime import datetime, timezone

import detection
from app import Log, Pool
from attacker import Attack, Outcome
from shop import Shop


def main(pairs):
    runs = [(results, json.load(open(results)), folder) for results, folder in pairs]
    outcomes = []
    with Shop(sum(len(told["attacks"]) for _, told, _ in runs)) as shop:
        for results, told, folder in runs:
            for number, attack in enumerate(told["attacks"]):
                kept = os.path.join(folder, f"{number:03}/bulkhead/application.jsonl")
                findings, firsts = again(kept, shop.sides(len(outcomes))[0], os.path.join(shop.root, "again.jsonl"))
                attack["bulkhead"]["findings"] = findings
                attack["bulkhead"]["detection"].update(firsts)
                outcomes.append(Outcome(**{**attack["bulkhead"], "attack": Attack(**attack["bulkhead"]["attack"])}))
            with open(results, "w") as f:
                f.write(f'{{"tools": {json.dumps(told["tools"])}, "attacks": [\n' + ",\n".join(map(json.dumps, told["attacks"])) + "\n]}\n")
    print("\n".join(detection.summary(outcomes)))


def again(kept, side, log):
    side.restore()
    since = datetime.now(timezone.utc)
    send(kept, Pool(side.url), Log(log))
    return detection.found(side.records(since), log)


def send(kept, pool, log):
    """The pool is closed after it, for nobody else has it."""
    with open(kept) as f:
        for entry in map(json.loads, f):
            began, clock = time.time(), time.monotonic()
            pool.run(entry["sql"])
            log.write(sql=entry["sql"], answer=entry["answer"], began=began, seconds=time.monotonic() - clock)


if __name__ == "__main__":
    main(list(zip(sys.argv[1::2], sys.argv[2::2])))
