"""When Bulkhead could have known: what its threat rules found in an attack, after how much of it.

Told in what the attacker had by then: statements that it had sent, the one found among them, and bytes that the application had
answered. `failures` is told apart: it needs 20 errors, and an attacker who knows the schema makes none. Findings are those of the
audit log, as whoever watches it would have them (what `failures` finds in errors of PostgreSQL itself is in the metrics alone); each
belongs to the statement that the application began last, for both write the time of the same clock.
"""

import json
from collections import Counter
from datetime import datetime
from statistics import median

LATE = {"failures"}
FIRSTS = ("first_finding", "first_besides_failures")


def found(records, log):
    """How many statements each rule has found, and FIRSTS: {name: {statements, bytes, rules, sql}}, or None where there is no finding."""
    findings = [(moment(record), names) for record in records if (names := rules(record))]
    with open(log) as f:
        sent = sorted(map(json.loads, f), key=lambda entry: entry["began"])
    firsts = (next((at(sent, *finding) for finding in findings if set(finding[1]) - late), None) for late in (set(), LATE))
    return dict(Counter(rule for _, names in findings for rule in names)), dict(zip(FIRSTS, firsts))


def rules(record):
    """The rules that have found something: in a statement that was let through, or in one that was refused anyway."""
    return [record["rule"]] if record["event"] == "threat" else record.get("rules", [])


def moment(record):
    return datetime.fromisoformat(record["time"].replace("Z", "+00:00")).timestamp()


def at(sent, time, names):
    before = [entry for entry in sent if entry["began"] <= time]
    answered = sum(len(entry["answer"].encode("utf8", "replace")) for entry in before if entry["began"] + entry["seconds"] <= time)
    return {"statements": len(before), "bytes": answered, "rules": names, "sql": before[-1]["sql"]}


# === what is told

COLUMNS = f"{'statements':>11} {'bytes':>15} {'never':>5} {'in':>3}    "  # in: attacks without a finding that found a way in


def summary(outcomes):
    """Lines, one for each technique and mode, and one for all tamper scripts."""
    groups = {}
    for outcome in outcomes:
        a = outcome.attack
        groups.setdefault("tampers" if a.tamper else f"{a.techniques} {a.mode}", []).append(outcome)
    yield f"{'':<14} {'':>7} | {'first finding: median, worst':^41} | {'but for failures':^41} | statements found"
    yield f"{'techniques':<14} {'attacks':>7} | {COLUMNS} | {COLUMNS} |"
    for name, group in groups.items():
        counts = sum((Counter(outcome.findings) for outcome in group), Counter())
        told = ", ".join(f"{rule} {count}" for rule, count in counts.most_common())
        columns = " | ".join(cells(group, first) for first in FIRSTS)
        yield f"{name:<14} {len(group):>7} | {columns} | of {sum(outcome.statements for outcome in group)}: {told}"


def cells(group, name):
    firsts = [first for outcome in group if (first := outcome.detection[name])]
    never = [outcome for outcome in group if not outcome.detection[name]]
    numbers = [f"{median(f[of] for f in firsts):.0f}, {max(f[of] for f in firsts)}" if firsts else "-" for of in ("statements", "bytes")]
    return f"{numbers[0]:>11} {numbers[1]:>15} {len(never):>5} {sum(outcome.injectable for outcome in never):>3}    "
