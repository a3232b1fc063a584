#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""docs/mqtt-statements.md names every normative statement of MQTT 5.0 once, each with a test that exists or the reason
why there is none. Prints one line per breach."""
import os
import re
import sys

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
# Section -> number of its last statement; they are numbered from 1 (2.2.1: from 2).
LAST = {
    "1.5.4": 3, "1.5.5": 1, "1.5.7": 1, "2.1.3": 1, "2.2.1": 6, "2.2.2": 1, "3.1.0": 2, "3.1.2": 30, "3.1.3": 12,
    "3.1.4": 6, "3.2.0": 2, "3.2.2": 22, "3.3.1": 13, "3.3.2": 20, "3.3.4": 10, "3.4.2": 3, "3.5.2": 3, "3.6.1": 1,
    "3.6.2": 3, "3.7.2": 3, "3.8.1": 1, "3.8.3": 5, "3.8.4": 8, "3.9.2": 2, "3.9.3": 2, "3.10.1": 1, "3.10.3": 2,
    "3.10.4": 6, "3.11.2": 2, "3.11.3": 2, "3.12.4": 1, "3.14.0": 1, "3.14.1": 1, "3.14.2": 4, "3.14.4": 3, "3.15.1": 1,
    "3.15.2": 3, "4.1.0": 2, "4.2": 1, "4.2.0": 1, "4.3.1": 1, "4.3.2": 5, "4.3.3": 13, "4.4.0": 2, "4.5.0": 2, "4.6.0": 6,
    "4.7.0": 1, "4.7.1": 2, "4.7.2": 1, "4.7.3": 4, "4.8.2": 6, "4.9.0": 3, "4.12.0": 7, "4.12.1": 2, "4.13.1": 1,
    "4.13.2": 1, "6.0.0": 4,
}
ROW = re.compile(r"^\| MQTT-(\S+) \| (.+) \|$")
NAME = re.compile(r"`(\w+\.py):(\w+)`")
REASONS = ("not the server's: ", "does not apply: ", "**not kept yet**: ")


def statements():
    return {f"{section}-{number}" for section, last in LAST.items()
            for number in range(2 if section == "2.2.1" else 1, last + 1)}


def functions(program):
    with open(os.path.join(ROOT, "tests", "e2e", program), encoding="utf-8") as file:
        return set(re.findall(r"^def (\w+)", file.read(), re.M))


def breaches():
    seen = set()
    with open(os.path.join(ROOT, "docs", "mqtt-statements.md"), encoding="utf-8") as file:
        rows = [ROW.match(line.rstrip("\n")) for line in file if line.startswith("| MQTT-")]
    for row in rows:
        if row is None:
            yield "a row has another form"
            continue
        statement, text = row.groups()
        if statement in seen:
            yield f"{statement} occurs twice"
        seen.add(statement)
        names = NAME.findall(text)
        if not names and not text.startswith(REASONS):
            yield f"{statement} has neither a test nor a reason"
        for program, function in names:
            if not os.path.exists(os.path.join(ROOT, "tests", "e2e", program)):
                yield f"{statement}: there is no tests/e2e/{program}"
            elif function not in functions(program):
                yield f"{statement}: {program} has no {function}"
    for statement in sorted(statements() - seen):
        yield f"{statement} is missing"
    for statement in sorted(seen - statements()):
        yield f"{statement} is no statement"


found = list(breaches())
print("\n".join(found))
sys.exit(1 if found else 0)
