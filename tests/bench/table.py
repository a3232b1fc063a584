# SPDX-License-Identifier: Apache-2.0
"""Turns the runs of script/bench into one table and, on request, into results.json."""
import argparse
import json
import os
import re
import statistics
import sys

# What the project wants to reach: mosquitto's CPU per delivered message divided by ours.
GOALS = {
    "fanin-q0-100-w10": 11,
    "pairs-q0-100-w10": 8,
    "fanout-q0-100-w10": 6,
    "fanin-q1-100-w10": 8,
    "pairs-q1-100-w10": 8,
}
GOALS.update({f"sessions-q1-100-w{window}": 8 for window in (10, 20, 100)})
GOALS.update({f"offline-{kind}-w{window}-{part}": 8
              for kind in ("1", "10", "pairs") for window in (10, 20, 100) for part in ("queue", "drain")})
SYSTEMS = ("polylog", "mosquitto")
# Saved for the workloads that have a bystander, or pairs of MQTT beside.
ALSO = ("max_us", "quiet_p99_us", "last_ms", "beside_p50_us", "beside_p99_us")
WRONG = ("lost", "unacked", "duplicated", "reordered", "errors")


def parts_of(workload, run):
    """A run of the offline workloads is two rows."""
    if not workload.startswith("offline"):
        return [(workload, run)]
    return [(f"{workload}-{part}", run[part]) for part in ("queue", "drain")]


def read_runs(path):
    """Workload -> system -> list of runs, in the order measured; and what went wrong."""
    runs, wrong = {}, []
    with open(path) as lines:
        for line in lines:
            system, workload, status, command, result = line.rstrip("\n").split("\t")
            where = f"{workload} on {system}"
            if not result:
                wrong.append(f"{where}: no result (exit status {status})")
                continue
            run = json.loads(result)
            for row, part in parts_of(workload, run):
                part["command"] = command
                runs.setdefault(row, {}).setdefault(system, []).append(part)
            seen = [f"{run[key]} {key}" for key in WRONG if run.get(key)]
            if run.get("stalled"):
                seen.append("stalled")
            if seen or status != "0":
                wrong.append(f"{where}: {', '.join(seen)} (exit status {status})")
    return runs, wrong


def median(runs, key):
    values = [run[key] for run in runs if run.get(key) is not None]
    return statistics.median(values) if values else None


def medians(runs):
    """Workload -> system -> key -> median of the runs."""
    return {
        workload: {
            system: {key: median(list_, key) for key, value in list_[0].items()
                     if isinstance(value, (int, float)) and not isinstance(value, bool)}
            for system, list_ in systems.items()
        }
        for workload, systems in runs.items()
    }


def durability(system, workload):
    if system == "mosquitto":
        return "memory"
    if workload.startswith(("connect", "idle")):
        return "none"
    return "not stored (QoS 0)" if "-q0" in workload else "sync before PUBACK"


def number(value, digits=0):
    return "-" if value is None else f"{value:,.{digits}f}".replace(",", " ")


def rate(value):
    return "-" if value is None else number(value / 1000, 1 if value < 100000 else 0) + "k"


def print_table(table):
    head = ("workload", "polylog/s", "mosq./s", "polylog us", "mosq. us", "ratio", "goal",
            "polylog p50/p99 us", "mosq. p50/p99 us", "polylog MB", "mosq. MB")
    rows = [head]
    for workload, systems in table.items():
        if not any(system in systems for system in SYSTEMS):
            continue
        ours, peer = (systems.get(system, {}) for system in SYSTEMS)
        ratio = peer["cpu_us"] / ours["cpu_us"] if ours.get("cpu_us") and peer.get("cpu_us") else None
        speed = "connects_s" if workload.startswith("idle") else "delivered_s"
        rows.append((
            workload, rate(ours.get(speed)), rate(peer.get(speed)),
            number(ours.get("cpu_us"), 2), number(peer.get("cpu_us"), 2),
            number(ratio, 1), number(GOALS.get(workload)),
            *(f"{number(side.get('p50_us'))} / {number(side.get('p99_us'))}" for side in (ours, peer)),
            *(number(side["rss_kb"] / 1024, 1) if side.get("rss_kb") else "-" for side in (ours, peer)),
        ))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    for row in rows:
        print("  ".join(cell.ljust(widths[i]) if i == 0 else cell.rjust(widths[i])
                        for i, cell in enumerate(row)).rstrip())


def beside_text(list_):
    """What the pairs' latency is to that of the MQTT pairs of the same run."""
    texts = []
    for key in ("p50_us", "p99_us"):
        ratios = sorted(run[key] / run[f"beside_{key}"] for run in list_ if run.get(f"beside_{key}"))
        if ratios:
            texts.append(f"{key[:-3]} {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    return ", ".join(texts) + " times those of MQTT to MQTT in the same run (goal 1.5); the range is that of the runs"


def print_notes(table, runs):
    for workload, systems in table.items():
        if workload.startswith("idle"):
            for system, row in systems.items():
                print(f"{workload}: {system} {number(row['rss_bytes_each'])} bytes of RSS per connection")
        disk = table.get(f"fdatasync beside {workload}", {}).get("disk")
        if disk and disk["p50_us"]:
            text = f"{workload}: one fdatasync of 4 KiB p50 {number(disk['p50_us'])} us, " \
                   f"p99 {number(disk['p99_us'])} us, {100 * disk['slow_share']:.1f} % of the time in slow ones " \
                   f"(over 2.5 times the median), up to {disk['slow_spell_ms']:.0f} ms on end"
            if "polylog" in systems:
                text += f"; polylog p50 is {systems['polylog']['p50_us'] / disk['p50_us']:.2f} of it (goal 2.5)"
            print(text)
        if workload.endswith("-beside") and "polylog" in systems:
            print(f"{workload}: {beside_text(runs[workload]['polylog'])}")
            continue
        beside = table.get(workload.partition("-amqp")[0], {}).get("polylog")
        if "-amqp" in workload and beside and beside["p99_us"] and "polylog" in systems:
            print(f"{workload}: " + ", ".join(f"{key[:-3]} {systems['polylog'][key] / beside[key]:.2f}"
                                              for key in ("p50_us", "p99_us"))
                  + " times those of MQTT to MQTT (goal 1.5)")
        if workload.startswith(("recall", "wills")):
            for system, row in systems.items():
                print(f"{workload}: {system} bystander at most {number(row['max_us'] / 1000, 1)} ms late"
                      f" (before: p99 {number(row['quiet_p99_us'] / 1000, 1)} ms)"
                      + (f"; the last will after {number(row['last_ms'])} ms" if "last_ms" in row else ""))
        if workload.startswith("stored"):
            for system, list_ in runs[workload].items():
                last = list_[-1]
                print(f"{workload}: {system} wrote {number(last['written_bytes'] / max(last['sent'], 1))} "
                      f"bytes per message; messages/s by twentieths of the last run: "
                      + " ".join(rate(value) for value in last["slices_s"]))


def cpu_model():
    with open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                return re.sub(r"\s+", " ", line.split(":", 1)[1].strip())
    return os.uname().machine


def save(path, table, runs, versions, machine):
    rows = []
    for workload, systems in table.items():
        for system in SYSTEMS:
            if system not in systems:
                continue
            row = systems[system]
            entry = {"workload": workload, "system": system, "version": versions[system],
                     "durability": durability(system, workload)}
            for key in ("cpu_us", "delivered_s", "p50_us", "p99_us", "rss_kb"):
                entry[key] = None if row.get(key) is None else round(row[key], 3)
            entry["command"] = runs[workload][system][0]["command"]
            for key in ALSO:
                if key in row:
                    entry[key] = round(row[key], 3)
            if "rss_bytes_each" in row:
                entry["rss_bytes_each"] = round(row["rss_bytes_each"])
            entry["machine"] = machine
            rows.append(entry)
    kept = []
    if os.path.exists(path):
        measured = {(row["workload"], row["system"]) for row in rows}
        with open(path) as file:
            kept = [row for row in json.load(file)
                    if (row["workload"], row["system"]) not in measured]
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write("[\n" + ",\n".join("  " + json.dumps(row) for row in kept + rows) + "\n]\n")


def main():
    parser = argparse.ArgumentParser()
    for name in ("runs", "polylog", "mosquitto", "disk", "rounds", "seconds"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--save")
    options = parser.parse_args()
    runs, wrong = read_runs(options.runs)
    table = medians(runs)
    machine = f"{os.cpu_count()} x {cpu_model()}, Linux {os.uname().release}"
    print(f"polylog {options.polylog}: QoS 1 and 2 synced to disk before the acknowledgement; "
          f"QoS 0 not stored")
    print(f"mosquitto {options.mosquitto}: everything in memory")
    print(f"{machine}, disk {options.disk}; load generator on the same machine")
    print(f"medians of {options.rounds} interleaved runs of {options.seconds} s; us = CPU microseconds "
          f"of the server per delivered message; ratio = mosquitto us / polylog us\n")
    print_table(table)
    print()
    print_notes(table, runs)
    for text in wrong:
        print(f"WRONG {text}")
    if options.save:
        versions = {"polylog": options.polylog, "mosquitto": options.mosquitto}
        save(options.save, table, runs, versions, machine)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
