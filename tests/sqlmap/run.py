#!/usr/bin/env python3
"""What an attacker with sqlmap gets out of an injectable application, through Bulkhead and directly.

    python3 tests/sqlmap/run.py --quick                    one place, some minutes
    python3 tests/sqlmap/run.py                            everything: hours
    python3 tests/sqlmap/run.py --quick --learned          what the application says is listed, and nothing else may be said
    python3 tests/sqlmap/run.py --places number,order --modes shown --techniques BEUSTQ,U --tampers none --cap 60
    python3 tests/sqlmap/run.py --together A.json B.json   what runs of some of them (--results) have found, as if it had been one

The application (app.py) is that of tenant 1, with a hole in each place of places.py. sqlmap (from PyPI, into target/sqlmap, once)
attacks each place twice at the same time: behind one application is Bulkhead, behind the other, the control, PostgreSQL itself.
Each attack gets an application and rows of its own. First at level 5 and risk 3, with all of the techniques BEUSTQ together and with
each alone; then at level 2, with each tamper script that applies to PostgreSQL. Once sqlmap is in, it is sent for rows of others
(attacker.GOALS). What the application answered, what sqlmap printed and all files that it wrote are searched for canaries of others
(shop.py), rows of others are compared with what they were, and each statement is sent once more to a shop where others have none
(replay.py): its answer must be the same (in the table: differ).

When Bulkhead's threat rules have noticed an attack stands in the table (found first at), and by technique below it (detection.py).

Through Bulkhead sqlmap finds the holes as well, for the application has them: what counts is what comes through (in the table: others,
canaries of others; own, the tenant's). Attacks on the control end with the first canary that was extracted; those through Bulkhead go
on to their end, or to the cap (a + after the seconds).

Exit status: 0 nothing came through; 1 a LEAK through Bulkhead, or Bulkhead ended; 2 nothing is proven, since the control gave nothing
away in some place or an attack did not run. BULKHEAD_BIN names the proxy (default target/debug/bulkhead).
"""

import argparse
import concurrent.futures
import json
import os
import shutil
import signal
import sys
import tempfile
import traceback

sys.dont_write_bytecode = True

import attacker  # noqa: E402
import detection  # noqa: E402
from places import MODES, PLACES  # noqa: E402
from shop import BINARY, HERE, Shop  # noqa: E402
from tools import PIP, Tools  # noqa: E402

ALL = "BEUSTQ"
TAMPERED = ("quoted",)  # the places that tamper scripts are tried on: there a payload has quotes to disguise
LEVEL, RISK = 5, 3
TAMPER_LEVEL, TAMPER_RISK = 2, 2


class CannotRun(Exception):
    """Something is missing; the text says what."""


def main():
    args = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if not os.path.exists(BINARY):
        raise CannotRun(f"{BINARY} is missing: build it, or name it in BULKHEAD_BIN")
    if args.together:
        pairs = [pair for name in args.together for pair in known(name)]
        print(HEADER)
        print("\n".join(line(*pair) for pair in pairs))
        write(args, pairs)
        sys.exit(verdict(pairs, []))
    tools = Tools()
    attacks = planned(args, tools)
    folder = args.keep or tempfile.mkdtemp(prefix="bulkhead-sqlmap-seen-")
    failures, pairs = [], []
    try:
        with Shop(len(attacks)) as shop:
            if args.learned:
                failures += shop.learn()
            print(HEADER, flush=True)
            for number, attack in enumerate(attacks):
                pairs.append(both(attack, shop.sides(number), tools, os.path.join(folder, f"{number:03}"), args.cap))
                print(line(*pairs[-1]), flush=True)
                write(args, pairs)
                failures += shop.proxy.ended()
            failures += [f"Bulkhead's log: {complaint}" for complaint in shop.proxy.complaints()]
    finally:
        if not args.keep:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(verdict(pairs, failures))


def arguments():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--quick", action="store_true", help="one place and one tamper script, at most a minute each unless --cap says so")
    args.add_argument("--learned", action="store_true", help="learn what the application says (bulkhead learn), and refuse everything else")
    args.add_argument("--places", default=",".join(PLACES))
    args.add_argument("--modes", default=",".join(MODES))
    args.add_argument("--techniques", default=",".join([ALL, *ALL]), help="of sqlmap's letters; each item is an attack; or none")
    args.add_argument("--tampers", default="all", help="names of scripts, all, or none")
    args.add_argument("--level", type=int, default=LEVEL)
    args.add_argument("--cap", type=float, help="seconds that an attack may take (default 300)")
    args.add_argument("--results", help="file for all numbers (default results.json beside this program; with --quick none)")
    args.add_argument("--together", nargs="+", metavar="FILE", help="attack nobody: tell of what these results say, and write them together")
    args.add_argument("--keep", help="a folder, made anew, that keeps what the applications answered and what sqlmap wrote")
    args = args.parse_args()
    if args.quick:
        args.places, args.modes, args.techniques, args.tampers = "number", "shown,hidden", ALL, "space2comment"
    elif not args.results:
        args.results = os.path.join(HERE, "results_learned.json" if args.learned else "results.json")
    args.cap = args.cap or (60 if args.quick else 300)
    if args.keep:
        os.makedirs(args.keep)
    return args


def planned(args, tools):
    """All attacks, those first that are the likeliest to get something."""
    techniques = [] if args.techniques == "none" else args.techniques.split(",")
    combinations = [(t, m, p) for t in techniques for m in args.modes.split(",") for p in args.places.split(",") if p]
    unknown = [p for _, m, p in combinations if p not in PLACES or m not in MODES]
    if unknown:
        raise CannotRun(f"no such place or mode; there are: {', '.join(PLACES)}; {', '.join(MODES)}")
    attacks = [attacker.Attack(p, m, t, args.level, RISK) for t, m, p in combinations]
    scripts = {"all": tools.tampers(), "none": []}.get(args.tampers, args.tampers.split(","))
    return attacks + [attacker.Attack(p, "shown", ALL, TAMPER_LEVEL, TAMPER_RISK, s) for s in scripts for p in TAMPERED]


def both(attack, sides, tools, folder, cap):
    """An attack on both sides, at the same time: [through Bulkhead, directly]."""
    sides = [(side, os.path.join(folder, side.name)) for side in sides]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(attacker.run, attack, side, tools, seen, cap, side.name == "direct") for side, seen in sides]
        try:
            outcomes = [job.result() for job in jobs]
        except BaseException:  # also Ctrl-C and SIGTERM: the pool waits for what it has begun
            attacker.ENDED.set()
            raise
    for outcome, (side, seen) in zip(outcomes, sides):
        outcome.replayed = attacker.replayed(side, tools, seen)
    return outcomes


# === what is told

COLUMNS = f"{'requests':>8} {'bytes':>9} {'seconds':>7} {'hole':>4} {'others':>6} {'own':>3} {'differ':>6}"
HEADER = f"{'place':<7} {'mode':<6} {'techniques':<22} | {'through Bulkhead':<49} {'refused':<12} {'found':<24} | directly, up to the first canary\n" \
         f"{'':<37} | {COLUMNS} {'first at':<12} {'first at':<24} | {COLUMNS}"


def line(through, direct):
    a = through.attack
    refusal, finding = (through.detection.get(name) for name in ("first_refusal", "first_finding"))
    refused = f"{refusal['statements']} ({refusal['sqlstate']})" if refusal else "-"
    found = f"{finding['statements']} ({finding['rules'][0]})" if finding else "-"
    return f"{a.place:<7} {a.mode:<6} {a.tamper or a.techniques:<22} | {cells(through)} {refused:<12} {found:<24} | {cells(direct)}"


def cells(outcome):
    seconds = f"{outcome.seconds:.0f}{'+' if outcome.capped else ''}"  # +: the cap ended it
    hole = "yes" if outcome.injectable else "no"
    return (f"{outcome.requests:>8} {outcome.bytes_answered:>9} {seconds:>7} {hole:>4} {len(outcome.canaries):>6} {outcome.own:>3} "
            f"{outcome.replayed['differ']:>6}")


def write(args, pairs):
    """After each attack, for a run of hours may be ended."""
    if not args.results:
        return
    attacks = (json.dumps({"cap_seconds": args.cap, "bulkhead": t.told(), "direct": d.told()}) for t, d in pairs)
    with open(args.results + ".new", "w") as f:
        f.write(f'{{"tools": {json.dumps(PIP)}, "attacks": [\n' + ",\n".join(attacks) + "\n]}\n")
    os.replace(args.results + ".new", args.results)


def known(name):
    """The pairs of a file that write() has written."""
    with open(name) as f:
        attacks = json.load(f)["attacks"]
    outcome = lambda told: attacker.Outcome(**{**told, "attack": attacker.Attack(**told["attack"])})  # noqa: E731
    return [(outcome(attack["bulkhead"]), outcome(attack["direct"])) for attack in attacks]


def verdict(pairs, failures):
    """Prints what is wrong; returns the exit status."""
    failures += [f"LEAK: {t.attack}: {len(t.canaries)} canaries {t.canaries[:3]}, rows of others changed: {t.changed}, counted: "
                 f"{t.counted or 'nothing'}; {json.dumps(t.evidence)[:3000]} {json.dumps(t.replayed)[:3000]}" for t, _ in pairs if t.leaks()]
    for failure in failures:
        print("FAILED: " + failure)
    unproven = list(blind_spots(pairs))
    for what in unproven:
        print("NOT PROVEN: " + what)
    print("\n".join(["", *detection.summary([t for t, _ in pairs]), ""]))
    through, direct = totals(pairs, 0), totals(pairs, 1)
    print(f"{len(pairs)} attacks. Through Bulkhead: {through}. Directly: {direct}.")
    return 1 if failures else 2 if unproven else 0


def blind_spots(pairs):
    """Where the harness itself saw nothing, though there was something to see."""
    control = [direct for _, direct in pairs]
    for place in sorted({d.attack.place for d in control}):
        if not any(d.extracted for d in control if d.attack.place == place):
            yield f"the control gave nothing away in place {place}"
    # Stacked statements and those that take their time have no answers that could differ.
    if any(set(d.attack.techniques) - set("ST") for d in control) and not any(d.replayed["differ"] for d in control):
        yield "no answer of the control differs where others have no rows"
    yield from (f"{o.side}, {o.attack}: {o.failure}" for pair in pairs for o in pair if o.failure)


def totals(pairs, side):
    outcomes = [pair[side] for pair in pairs]
    return (f"{sum(o.statements for o in outcomes)} statements, {sum(o.bytes_answered for o in outcomes)} bytes answered, "
            f"holes found in {sum(o.injectable for o in outcomes)} attacks, canaries of others in {sum(bool(o.canaries) for o in outcomes)}, "
            f"{sum(o.replayed['compared'] for o in outcomes)} answers compared, of which {sum(o.replayed['differ'] for o in outcomes)} differ")


if __name__ == "__main__":
    try:
        main()
    except CannotRun as e:
        print(f"sqlmap: {e}", file=sys.stderr)
        sys.exit(2)
    except Exception:  # Python's own status would be that of a leak
        traceback.print_exc()
        sys.exit(2)
