# SPDX-License-Identifier: Apache-2.0
"""polylog, the command line client, against a running gateway."""
import json
import os
import subprocess
import threading
import time

import gateway
from gateway import POLYLOG, Gateway


def call(running, *arguments, text="", user=None, expected=0):
    """Runs polylog; returns what it printed."""
    command = [POLYLOG, "--url", f"http://127.0.0.1:{running.http_port}", *arguments]
    environment = dict(os.environ)
    if user:
        environment["POLYLOG_USER"], environment["POLYLOG_PASSWORD"] = user
    content = text if isinstance(text, bytes) else text.encode()
    done = subprocess.run(command, input=content, capture_output=True, timeout=90, env=environment)
    assert done.returncode == expected, (arguments, done)
    return (done.stdout if expected == 0 else done.stderr).decode()


def answer(running, *arguments, **more):
    return json.loads(call(running, "--json", *arguments, **more))


def wrong_calls_end_with_2():
    for arguments in ([], ["queue"], ["nonsense"], ["queue", "list", "x"], ["queue", "create"], ["queue", "list", "--max"],
                      ["publish", "x"], ["publish", "--topic", "a", "--queue", "b", "x"], ["queue", "list", "--type", "x"],
                      ["--user", "ann", "queue", "list"], ["consume", "q", "g", "--max", "none"]):
        done = subprocess.run([POLYLOG, *arguments], capture_output=True, text=True, timeout=60)
        assert done.returncode == 2, (arguments, done)


def help_is_there_for_every_command():
    whole = subprocess.run([POLYLOG, "--help"], capture_output=True, text=True, check=True).stdout
    for noun in ("queue", "group", "route", "user", "grant", "key"):
        for verb in ("list", {"user": "add", "route": "set"}.get(noun, "create"), "delete"):
            assert f"  {noun} {verb}" in whole, (noun, verb)
            done = subprocess.run([POLYLOG, noun, verb, "--help"], capture_output=True, text=True, check=True)
            assert done.stdout.startswith(f"usage: polylog {noun} {verb}"), done.stdout
    for command in ("publish", "consume", "status", "peek", "replay", "deadletter list", "deadletter show",
                    "redrive", "explain", "purge", "backup", "queue set", "group seek", "delayed delete"):
        done = subprocess.run([POLYLOG, *command.split(), "--help"], capture_output=True, text=True, check=True)
        assert done.stdout.startswith(f"usage: polylog {command} "), done.stdout


def an_unreachable_gateway_ends_with_1():
    done = subprocess.run([POLYLOG, "--url", "http://127.0.0.1:1", "queue", "list"], capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 1 and "127.0.0.1:1" in done.stderr, done


def queues_are_made_listed_and_deleted(running):
    call(running, "queue", "create", "orders")
    call(running, "queue", "create", "events", "--type", "stream", "--durability", "interval", "--partitions", "2",
         "--retention-hours", "100")
    rows = call(running, "queue", "list").splitlines()
    assert rows[0].split()[:2] == ["NAME", "TYPE"], rows
    assert [row.split()[:2] for row in rows[1:]] == [["mqtt", "standard"], ["orders", "standard"], ["events", "stream"]]
    events = answer(running, "queue", "show", "events")
    assert (events["partition_count"], events["durability"]) == (2, "interval"), events
    assert events["retention_ms"] == 100 * 3600 * 1000, events
    assert "exists" in call(running, "queue", "create", "orders", expected=1)
    assert call(running, "queue", "create", "no blanks", expected=1)
    call(running, "queue", "delete", "orders")
    call(running, "queue", "show", "orders", expected=1)
    call(running, "queue", "delete", "mqtt", expected=1)


def messages_go_in_and_come_out(running):
    call(running, "queue", "create", "orders")
    call(running, "group", "create", "orders", "billing")
    call(running, "publish", "--queue", "orders", "first")
    call(running, "publish", "--queue", "orders", "--attribute", "colour=blue", text="second,\nof two lines")
    call(running, "publish", "--queue", "orders", text=b"\xff\x00\x01")
    assert call(running, "consume", "orders", "billing", "--max", "1") == "first\n"
    rest = [json.loads(line) for line in call(running, "--json", "consume", "orders", "billing", "--wait", "1").splitlines()]
    assert rest[0]["body"] == "second,\nof two lines" and rest[0]["attributes"]["colour"] == "blue", rest
    assert (rest[1]["body"], rest[1]["body_encoding"]) == ("/wAB", "base64"), rest
    assert call(running, "consume", "orders", "billing", "--wait", "1") == ""
    groups = answer(running, "group", "list", "orders")["groups"]
    assert [group["name"] for group in groups] == ["billing"] and groups[0]["available_messages"] == 0, groups
    assert "billing" in call(running, "group", "list", "orders")
    call(running, "consume", "orders", "billling", expected=1)
    call(running, "group", "set", "orders", "billing", "--selector", "a = 'b'")
    call(running, "group", "create", "orders", "odd", "--selector", "n > 1")
    groups = answer(running, "group", "list", "orders")["groups"]
    assert [group["selector"] for group in groups] == ["a = 'b'", "n > 1"], groups
    call(running, "group", "set", "orders", "odd", "--selector", "")
    assert answer(running, "group", "list", "orders")["groups"][1]["selector"] is None
    call(running, "group", "create", "orders", "all", "--broadcast", "--consumer-idle", "1h")
    call(running, "group", "set", "orders", "all", "--consumer-idle", "2d")
    assert answer(running, "group", "list", "orders")["groups"][2]["consumer_idle_ms"] == 2 * 24 * 3600 * 1000
    call(running, "group", "delete", "orders", "odd")
    call(running, "group", "delete", "orders", "billing")
    call(running, "consume", "orders", "billing", expected=1)


def what_was_acknowledged_does_not_come_again(running):
    call(running, "group", "create", "mqtt", "reader")
    call(running, "publish", "--topic", "plant/7", "21.5")
    assert call(running, "consume", "mqtt", "reader", "--topics", "--max", "1") == "plant/7 21.5\n"
    running.kill9()
    running.start()
    assert call(running, "consume", "mqtt", "reader", "--wait", "1") == ""


def following_waits_for_what_comes(running):
    call(running, "group", "create", "mqtt", "reader")
    seen = []

    def follow():
        seen.append(call(running, "consume", "mqtt", "reader", "--follow", "--max", "2", "--wait", "1"))

    thread = threading.Thread(target=follow)
    thread.start()
    for body in ("one", "two"):
        time.sleep(1.2)
        call(running, "publish", "--topic", "a", body)
    thread.join(30)
    assert seen == ["one\ntwo\n"], seen


def routes_decide_where_topics_go(running):
    call(running, "queue", "create", "orders")
    call(running, "group", "create", "orders", "billing")
    call(running, "route", "set", "shop/+/orders", "orders")
    assert call(running, "route", "list").splitlines()[1].split() == ["shop/+/orders", "orders"]
    call(running, "publish", "--topic", "shop/1/orders", "12")
    assert call(running, "consume", "orders", "billing", "--max", "1") == "12\n"
    call(running, "route", "set", "x/#", "nowhere", expected=1)
    call(running, "route", "delete", "shop/+/orders")
    assert len(call(running, "route", "list").splitlines()) == 1
    call(running, "route", "delete", "shop/+/orders", expected=1)


def users_have_grants_and_keys(running):
    ann, bob = ("ann", "secret"), ("bob", "other")
    call(running, "user", "add", "ann", text="secret\n")
    call(running, "queue", "list", expected=1)
    call(running, "queue", "list", user=("ann", "wrong"), expected=1)
    call(running, "queue", "create", "orders", user=ann)
    call(running, "user", "add", "bob", text="other\n", user=ann)
    call(running, "user", "add", "bob", text="other\n", user=ann, expected=1)
    assert [row.split()[0] for row in call(running, "user", "list", user=ann).splitlines()[1:]] == ["ann", "bob"]
    call(running, "publish", "--queue", "orders", "x", user=bob, expected=1)
    call(running, "grant", "create", "bob", "publish", "queue:orders", user=ann)
    call(running, "publish", "--queue", "orders", "x", user=bob)
    call(running, "grant", "create", "bob", "consume", "queue:other", user=ann)
    assert call(running, "grant", "list", "bob", user=ann).splitlines() == ["publish queue:orders", "consume queue:other"]
    call(running, "grant", "delete", "bob", "publish", "queue:orders", user=ann)
    call(running, "publish", "--queue", "orders", "x", user=bob, expected=1)
    call(running, "grant", "set", "bob", "manage", "queue:*", user=ann)
    call(running, "grant", "create", "bob", "fly", "queue:*", user=ann, expected=1)
    key = answer(running, "key", "create", "bob", user=ann)
    assert key["id"] and key["secret"], key
    assert key["id"] in call(running, "key", "list", "bob", user=ann)
    call(running, "key", "delete", "bob", key["id"], user=ann)
    call(running, "user", "set", "bob", text="new\n", user=ann)
    call(running, "queue", "list", user=bob, expected=1)
    call(running, "queue", "list", user=("bob", "new"))
    call(running, "user", "delete", "bob", user=ann)
    call(running, "queue", "list", user=("bob", "new"), expected=1)


def tokens_stand_for_users(running):
    assert "no users" in call(running, "token", "create", expected=1)
    call(running, "user", "add", "ann", text="a secret\n")
    ann = ("ann", "a secret")
    made = answer(running, "token", "create", "--expires", "2h", user=ann)
    assert abs(made["expires_at"] / 1000 - time.time() - 7200) < 60, made
    assert answer(running, "--token", made["token"], "queue", "list")["queues"]
    command = [POLYLOG, "--url", f"http://127.0.0.1:{running.http_port}", "queue", "list"]
    for environment, code in (({"POLYLOG_TOKEN": made["token"]}, 0), ({"POLYLOG_TOKEN": made["token"] + "0"}, 1),
                              ({"POLYLOG_TOKEN": ""}, 1)):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment})
        assert done.returncode == code, done
    # A user that is named wins over a token of the environment.
    done = subprocess.run([*command, "--user", "ann:a secret"], capture_output=True, text=True, timeout=60,
                          env={**os.environ, "POLYLOG_TOKEN": "x"})
    assert done.returncode == 0, done
    assert "exclude" in call(running, "--token", "x", "--user", "a:b", "queue", "list", expected=2)
    assert call(running, "token", "create", "--expires", "2d", user=ann, expected=2)


def status_tells_how_it_is(running):
    text = call(running, "status")
    assert text.startswith("ready\n") and "build_info" in text, text
    assert answer(running, "status")["ready"] is True


gateway.run(
    wrong_calls_end_with_2,
    help_is_there_for_every_command,
    an_unreachable_gateway_ends_with_1,
    queues_are_made_listed_and_deleted,
    messages_go_in_and_come_out,
    what_was_acknowledged_does_not_come_again,
    following_waits_for_what_comes,
    routes_decide_where_topics_go,
    users_have_grants_and_keys,
    tokens_stand_for_users,
    status_tells_how_it_is,
)
