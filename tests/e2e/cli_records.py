# SPDX-License-Identifier: Apache-2.0
"""polylog's verbs about records: looking without taking, filters, dead letters."""
import datetime
import json
import os
import shutil
import subprocess
import tempfile
import time

import gateway
from gateway import POLYLOG, until
from rest import group_numbers, handlers, make, publish, records, settle, take
from standstill import needs_pace


def call(running, *arguments, text="", expected=0):
    """Runs polylog; returns what it printed, or on standard error when it should fail."""
    command = [POLYLOG, "--url", f"http://127.0.0.1:{running.http_port}", *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=90, env=dict(os.environ))
    assert done.returncode == expected, (arguments, done)
    return done.stdout if expected == 0 else done.stderr


def lines(running, *arguments):
    return call(running, *arguments).splitlines()


def json_lines(running, *arguments):
    return [json.loads(line) for line in lines(running, "--json", *arguments)]


def publish_options(running):
    make(running, "orders")
    call(running, "publish", "--queue", "orders", "--label", "a", "--label", "b.c", "--priority", "7", "--group", "g1",
         "--key", "k", "--expiry", "10m", "x")
    record = records(running, "orders")["records"][0]
    assert record["labels"] == ["a", "b.c"], record
    attributes = record["attributes"]
    assert (attributes["priority"], attributes["group-id"], attributes["key"]) == ("7", "g1", "k"), attributes
    assert abs(int(attributes["expires-at"]) / 1000 - time.time() - 600) < 60, attributes
    for bad in (["--priority", "10"], ["--expiry", "soon"], ["--expiry", "-5"], ["--expiry", "5y"]):
        call(running, "publish", "--queue", "orders", *bad, "x", expected=2)
    call(running, "publish", "--queue", "orders", "--label", "no blanks", "x", expected=1)


@needs_pace
def delayed_messages(running):
    make(running)
    other = call(running, "publish", "--queue", "q", "--delay", "2d", "never").strip()
    call(running, "delayed", "delete", "q", other)
    call(running, "delayed", "delete", "q", other, expected=1)
    call(running, "delayed", "delete", "q", "nonsense", expected=1)
    identity = call(running, "publish", "--queue", "q", "--delay", "1s", "soon").strip()
    assert identity and other and identity != other
    assert lines(running, "consume", "q", "g", "--wait", "0") == []
    assert lines(running, "consume", "q", "g", "--wait", "5", "--max", "1") == ["soon"]
    call(running, "publish", "--queue", "q", "--delay", "8d", "x", expected=2)


def looking_takes_nothing(running):
    make(running, partitions=3)
    for start in range(0, 1200, 400):
        publish(running, *({"body": str(i), "key": str(i), "labels": ["odd" if i % 2 else "even"], "attributes": {"n": i}}
                           for i in range(start, start + 400)))
        time.sleep(0.05)
    assert len(lines(running, "peek", "q")) == 10
    assert len(lines(running, "peek", "q", "--max", "25")) == 25
    everything = lines(running, "replay", "q")
    assert sorted(map(int, everything)) == list(range(1200))
    # By time: what was published later is not shown before, whatever its partition.
    assert all(abs(int(body) // 400 - place // 400) == 0 for place, body in enumerate(everything))
    whole = json_lines(running, "replay", "q", "--partition", "1")
    assert {record["partition"] for record in whole} == {1}
    middle = whole[len(whole) // 2]
    rest = json_lines(running, "replay", "q", "--partition", "1", "--offset", str(middle["offset"]))
    assert rest == whole[len(whole) // 2:]
    assert "--partition" in call(running, "replay", "q", "--offset", "1", expected=2)
    times = {int(record["body"]): record["time"] for record in json_lines(running, "replay", "q")}
    since, late = min(times[i] for i in range(800, 1200)), max(times.values())
    assert sorted(map(int, lines(running, "replay", "q", "--time", str(since))))[-400:] == list(range(800, 1200))
    date = datetime.datetime.fromtimestamp(late / 1000 - 86400, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert len(lines(running, "replay", "q", "--time", date)) == 1200
    assert len(lines(running, "replay", "q", "--time", "1h")) == 1200
    assert lines(running, "replay", "q", "--time", str(late + 10000000)) == []
    assert sorted(map(int, lines(running, "replay", "q", "--selector", "n BETWEEN 5 AND 7"))) == [5, 6, 7]
    assert sorted(map(int, lines(running, "replay", "q", "--label", "odd", "--selector", "n < 6"))) == [1, 3, 5]
    assert lines(running, "replay", "q", "--label", "odd", "--label", "even", "--all-labels") == []
    first = call(running, "peek", "q", "--offsets", "--max", "1").split()
    assert first[0].split("-")[1] == "0" and first[1].endswith("Z") and len(first) == 3, first
    assert "at 3" in call(running, "peek", "q", "--selector", "n !", expected=1)
    call(running, "peek", "none", expected=1)
    call(running, "peek", "q", "--time", "yesterday", expected=2)
    call(running, "peek", "q", "--partition", "3", expected=2)
    assert group_numbers(running)["available_messages"] == 1200


def dead_letters_of_any_properties(running):
    """Those of the publisher, also several of one name, are not taken for what the gateway says of the dead letter."""
    make(running, redrive_policy="enable", max_consume_count=1)
    own = {"offset": "77", "fate": "mine", "body": "no", "dead-letter-reason": "none", "dead-letter-count": ["5", "6"], "a": ["1", "2"]}
    publish(running, {"body": "one", "attributes": own})
    settle(running, "nack", handlers(take(running)))
    assert until(lambda: group_numbers(running)["available_deadletters"] == 1)
    rows = lines(running, "deadletter", "list", "q", "g")
    assert [row.split() for row in rows[1:]] == [["0", "available", "failures", "1", "0", "one"]], rows
    shown = json.loads(call(running, "--json", "deadletter", "show", "q", "g", "0"))["attributes"]
    assert shown["a"] == ["1", "2"] and shown["dead-letter-count"] == ["5", "6", "1"] and shown["fate"] == "mine", shown
    assert '"a":["1","2"]' in call(running, "deadletter", "show", "q", "g", "0")


def dead_letters(running):
    make(running, redrive_policy="enable", max_consume_count=1)
    publish(running, {"body": "one"}, {"body": "two", "labels": ["x"]}, {"body": "three"})
    settle(running, "nack", handlers(take(running)))
    assert until(lambda: group_numbers(running)["available_deadletters"] == 3)
    rows = lines(running, "deadletter", "list", "q", "g")
    assert rows[0].split() == ["OFFSET", "FATE", "REASON", "FAILURES", "SOURCE", "BODY"]
    assert [row.split() for row in rows[1:]] == [["0", "available", "failures", "1", "0", "one"],
                                                 ["1", "available", "failures", "1", "1", "two"],
                                                 ["2", "available", "failures", "1", "2", "three"]], rows
    assert len(lines(running, "deadletter", "list", "q", "g", "--label", "x")) == 2
    assert "two" in call(running, "deadletter", "show", "q", "g", "1")
    assert json.loads(call(running, "--json", "deadletter", "show", "q", "g", "2"))["body"] == "three"
    call(running, "deadletter", "show", "q", "g", "7", expected=1)
    call(running, "deadletter", "show", "q", "g", "x", expected=1)
    call(running, "deadletter", "list", "q", "none", expected=1)
    assert lines(running, "consume", "q", "g", "--wait", "0") == []
    assert lines(running, "consume", "q", "g", "--dead", "--max", "2") == ["one", "two"]
    assert lines(running, "consume", "q", "g", "--dead", "--wait", "1") == ["three"]


def dead_letters_go_back(running):
    make(running, redrive_policy="enable", max_consume_count=1)
    publish(running, *({"body": str(i), "labels": ["odd" if i % 2 else "even"]} for i in range(8)))
    settle(running, "reject", handlers(take(running)))
    assert until(lambda: group_numbers(running)["available_deadletters"] == 8)
    assert "8" in lines(running, "group", "list", "q")[1].split()
    assert call(running, "redrive", "q", "g", "--id", "2", "--id", "3") == "2 of 2 moved\n"
    assert json.loads(call(running, "--json", "redrive", "q", "g", "--label", "odd"))["moved"] == 3
    assert sorted(lines(running, "consume", "q", "g", "--wait", "1")) == ["1", "2", "3", "5", "7"]
    assert len(lines(running, "deadletter", "list", "q", "g")) == 4
    call(running, "redrive", "q", "g", "--all", "--no-wait")
    assert sorted(lines(running, "consume", "q", "g", "--wait", "1")) == ["0", "4", "6"]
    for wrong in ([], ["--all", "--label", "x"], ["--id", "x"], ["--id", ""]):
        call(running, "redrive", "q", "g", *wrong, expected=2)
    call(running, "redrive", "q", "none", "--all", expected=1)


def positions(running):
    make(running)
    publish(running, *map(str, range(6)))
    assert lines(running, "consume", "q", "g", "--wait", "0") == list("012345")
    call(running, "group", "seek", "q", "g", "--offset", "4")
    assert lines(running, "consume", "q", "g", "--wait", "0") == ["4", "5"]
    call(running, "group", "seek", "q", "g", "--earliest")
    assert lines(running, "consume", "q", "g", "--wait", "0", "--max", "1") == ["0"]
    shown = dict(line.split(None, 1) for line in lines(running, "explain", "q", "g", "0"))
    assert shown["fate"] == "acknowledged", shown
    assert json.loads(call(running, "--json", "explain", "q", "g", "1", "--partition", "0"))["fate"] == "available"
    call(running, "group", "seek", "q", "g", "--time", "1h")
    assert lines(running, "consume", "q", "g", "--wait", "0") == list("012345")
    call(running, "group", "seek", "q", "g", "--latest")
    assert lines(running, "consume", "q", "g", "--wait", "0") == []
    call(running, "group", "create", "q", "late", "--start", "latest")
    assert lines(running, "consume", "q", "late", "--wait", "0") == []
    for wrong in ([], ["--earliest", "--latest"], ["--offset", "-1"], ["--time", "soon"]):
        call(running, "group", "seek", "q", "g", *wrong, expected=2)
    call(running, "group", "seek", "q", "g", "--offset", "99", expected=1)
    call(running, "explain", "q", "g", "x", expected=1)
    call(running, "explain", "q", "none", "0", expected=1)
    call(running, "group", "create", "q", "odd", "--start", "middle", expected=1)


def queues_change(running):
    call(running, "queue", "create", "q", "--max-failures", "3", "--overflow", "refuse", "--max-records", "5")
    call(running, "queue", "set", "q", "--description", "changed", "--retention-hours", "5", "--max-records", "0", "--lease", "30m")
    shown = json.loads(call(running, "--json", "queue", "show", "q"))
    assert (shown["description"], shown["retention_ms"], shown["max_records"], shown["lease_ms"]) == ("changed", 18000000, 0, 1800000), shown
    assert (shown["redrive_policy"], shown["max_consume_count"], shown["overflow"]) == ("enable", 3, "refuse"), shown
    call(running, "queue", "set", "q", "--deadletters", "disable")
    assert json.loads(call(running, "--json", "queue", "show", "q"))["redrive_policy"] == "disable"
    call(running, "queue", "set", "q", expected=2)
    call(running, "queue", "set", "q", "--type", "fifo", expected=2)
    call(running, "queue", "set", "q", "--overflow", "burst", expected=1)
    call(running, "queue", "set", "none", "--max-records", "5", expected=1)
    publish(running, *map(str, range(4)))
    assert call(running, "purge", "q").split() == ["records", "4"]
    assert lines(running, "peek", "q") == []
    call(running, "purge", "none", expected=1)


def a_backup_is_a_store(running):
    make(running)
    publish(running, "kept")
    place = tempfile.mkdtemp(prefix="polylog-e2e-")
    try:
        directory = os.path.join(place, "copy")
        call(running, "backup", directory)
        call(running, "backup", directory, expected=1)
        call(running, "backup", "relative", expected=1)
        copy = gateway.Gateway(directory)
        try:
            assert lines(copy, "peek", "q") == ["kept"]
        finally:
            copy.stop()
    finally:
        shutil.rmtree(place, ignore_errors=True)


gateway.run(publish_options, delayed_messages, looking_takes_nothing, dead_letters, dead_letters_of_any_properties, dead_letters_go_back, positions, queues_change,
            a_backup_is_a_store)
