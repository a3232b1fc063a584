#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Users and grants as MQTT clients meet them: who gets in, what is refused in which words, and what a change does to
those who are connected."""

import base64
import subprocess
import tempfile
import time

import standstill
from gateway import POLYLOG, Gateway, run, until
from wire import *  # noqa: F403 - the names of the protocol

ADMIN = ("root", "first of all")


def prepare():
    """A gateway whose first user was made while it was stopped, as one does on a new machine."""
    data = tempfile.mkdtemp(prefix="polylog-rights-")
    subprocess.run([POLYLOG, "user", "add", ADMIN[0], "--data", data], input=ADMIN[1] + "\n", text=True, check=True,
                   timeout=60)
    gateway = Gateway(data)
    gateway.owns_data = True
    return gateway


def administer(gateway, *arguments, text_in=""):
    command = [POLYLOG, "--url", "http://127.0.0.1:%d" % gateway.http_port, "--user", ":".join(ADMIN), *arguments]
    subprocess.run(command, input=text_in, text=True, check=True, timeout=60)


def connected(gateway, name, password, client_id="", version=5):
    return Client(gateway.mqtt_port, version).connect(client_id or name, user=name, password=password)


def user(gateway, name, *grants):
    administer(gateway, "user", "add", name, text_in="secret-%s\n" % name)
    administer(gateway, "grant", "set", name, *grants)


def test_login():
    gateway = prepare()
    for version, reason in ((3, 4), (4, 4), (5, 0x86)):
        for who in ((None, None), ("root", "wrong"), ("root", ""), ("nobody", "x"), ("", ""), ("root", "x" * 2000)):
            with Client(gateway.mqtt_port, version) as client:
                client.connect("a", user=who[0], password=who[1], accept=False)
                answer = client.expect_end()
                assert answer == reason or (version < 5 and answer == 5), (version, who, answer)
        with connected(gateway, *ADMIN, version=version) as client:
            assert client.publish("any/topic", "x", 1) == 0
    # The second login of a user is not slower than it must be: the password is known now.
    def twenty_logins():
        began = time.monotonic()
        for _ in range(20):
            connected(gateway, *ADMIN).close()
        return standstill.spent(began)
    assert any(twenty_logins() < 1 for _ in range(3))  # the gateway alone may stand still in one of them
    assert gateway.call("GET", "/v1.0/default/queues")[0] == 401
    token = base64.b64encode(":".join(ADMIN).encode()).decode()
    assert gateway.call("GET", "/v1.0/default/queues", headers={"Authorization": "Basic " + token})[0] == 200
    assert gateway.stop() == 0


def test_denied():
    gateway = prepare()
    user(gateway, "plant", "publish", "topic:plant/%c/#", "consume", "topic:command/%u/+", "consume", "topic:shared/#")
    with connected(gateway, "plant", "secret-plant", "press4") as device, connected(gateway, *ADMIN) as admin:
        admin.subscribe(("#", 1))
        for qos in (1, 2):
            assert device.publish("plant/press4/heat", "1", qos) == 0
            assert device.publish("plant/press5/heat", "1", qos) == 0x87
            assert device.publish("plant", "1", qos) == 0x87
        device.publish("other", "0", 0)
        device.ping()
        assert [admin.delivery().topic for _ in range(2)] == ["plant/press4/heat"] * 2
        admin.expect_silence(0.1)
        reasons = device.subscribe(("command/plant/+", 1), ("command/root/+", 1), ("command/#", 1), ("#", 0),
                                   ("shared/a/#", 2), ("plant/press4/#", 0))
        assert reasons == [1, 0x87, 0x87, 0x87, 2, 0x87], reasons
        admin.publish("command/plant/stop", "now", 1)
        assert device.delivery().payload == b"now"
    with connected(gateway, "plant", "secret-plant", "press4", version=4) as old:
        assert old.subscribe(("command/root/+", 1), ("shared/x", 1)) == [0x80, 1]
        assert old.publish("plant/press4/x", "1", 1) == 0
        old.send(publish(4, "plant/press5/x", b"1", 1))
        assert old.expect_end() is None  # 3.1.1 has no other no
    with Client(gateway.mqtt_port, 5) as client:  # a will is published with the rights of who left it
        client.connect("press4", user="plant", password="secret-plant", will=("plant/press5/x", "no", 1, False))
    with connected(gateway, *ADMIN) as admin:
        admin.subscribe(("plant/#", 1))
        admin.expect_silence(0.2)
    assert gateway.stop() == 0


def test_queues_and_shares():
    """Consuming makes a group where there is none; a share is allowed as its filter is; a receipt is no right."""
    gateway = prepare()
    administer(gateway, "queue", "create", "jobs")
    administer(gateway, "queue", "create", "other")
    user(gateway, "worker", "consume", "queue:jobs", "consume", "topic:w/#")
    with connected(gateway, "worker", "secret-worker") as worker, connected(gateway, *ADMIN) as admin:
        reasons = worker.subscribe(("$queue/jobs", 1), ("$share/g/$queue/jobs", 1), ("$queue/other", 1),
                                   ("$share/g/$queue/other", 1), ("$share/g/w/+", 1), ("$share/g/#", 1), ("$replay/0/#", 1),
                                   ("$replay/0/$queue/other", 1), ("$replay/0/w/+", 1))
        assert reasons == [1, 1, 0x87, 0x87, 1, 0x87, 0x87, 0x87, 1], reasons
        assert worker.publish("$queue/jobs", "x", 1) == 0x87
        assert admin.publish("w/1", "shared", 1) == 0
        assert sorted(worker.delivery().topic for _ in range(2)) == ["$replay/0/w/1", "w/1"]
        admin.subscribe(("$queue/other", 1), props=[(USER, ("show", "receipt"))])
        assert admin.publish("$queue/other", "mine", 1) == 0
        receipt = dict(admin.expect(PUBLISH).users())["receipt"]
        assert worker.publish("$queue/other/$nack", receipt, 1) == 0x87
        assert worker.publish("$queue/jobs/$nack", receipt, 1) == 0x80
        administer(gateway, "grant", "set", "worker", "consume", "topic:x")
        worker.ping()
        for topic in ("$queue/jobs", "w/1"):
            assert admin.publish(topic, "late", 1) == 0
        worker.expect_silence(0.3)
    assert gateway.stop() == 0


def test_changes_reach_those_who_are_away():
    """A right that a session has lost while nobody was there: neither what it missed nor what was under way comes, and
    the subscription does not come back with the right."""
    gateway = prepare()
    keep = [(SESSION_EXPIRY, 1000)]

    def resume():
        return Client(gateway.mqtt_port).connect("device", clean=False, props=keep, user="s", password="secret-s")

    user(gateway, "s", "consume", "topic:a/#", "consume", "topic:b/#")
    with connected(gateway, *ADMIN) as admin:
        with resume() as client:
            client.subscribe(("a/+", 1), ("b/+", 1))
            admin.publish("a/1", "under way", 1)
            assert client.expect(PUBLISH).topic == "a/1"
        admin.publish("a/2", "missed", 1)
        admin.publish("b/2", "missed", 1)
        administer(gateway, "grant", "set", "s", "consume", "topic:b/#")
        with resume() as client:
            assert client.connack.body[0] & 1
            assert client.delivery().topic == "b/2"
            client.expect_silence(0.1)
        administer(gateway, "grant", "set", "s", "consume", "topic:a/#", "consume", "topic:b/#")
        admin.publish("a/3", "late", 1)
        with resume() as client:
            client.expect_silence(0.1)
            assert client.unsubscribe("a/+", "b/+") == [0x11, 0]
    assert gateway.stop() == 0


def test_changes_reach_the_connected():
    gateway = prepare()
    user(gateway, "app", "publish,consume", "topic:a/#")
    with connected(gateway, "app", "secret-app") as app, connected(gateway, *ADMIN) as admin:
        assert app.subscribe(("a/1", 1), ("a/2", 1)) == [1, 1]
        assert app.publish("a/x", "1", 1) == 0
        administer(gateway, "grant", "set", "app", "publish", "topic:b/#", "consume", "topic:a/2")
        assert app.publish("a/x", "1", 1) == 0x87
        assert app.publish("b/x", "1", 1) == 0
        admin.publish("a/1", "hidden", 1)
        admin.publish("a/2", "seen", 1)
        assert app.delivery().payload == b"seen"
        app.expect_silence(0.1)
        administer(gateway, "user", "delete", "app")
        app.socket.settimeout(5)
        assert app.expect_end() in (0x87, 0x98)
    with Client(gateway.mqtt_port, 5) as client:
        client.connect("a", user="app", password="secret-app", accept=False)
        assert client.expect_end() == 0x86
    assert gateway.stop() == 0


def test_a_new_password_counts_at_once():
    gateway = prepare()
    user(gateway, "app", "publish", "topic:#")
    connected(gateway, "app", "secret-app").close()
    administer(gateway, "user", "set", "app", text_in="changed\n")
    with Client(gateway.mqtt_port, 5) as client:
        client.connect("a", user="app", password="secret-app", accept=False)
        assert client.expect_end() == 0x86
    with connected(gateway, "app", "changed") as client:
        assert client.publish("x", "y", 1) == 0
    assert until(lambda: gateway.alive())
    assert gateway.stop() == 0


run(*(value for name, value in list(globals().items()) if name.startswith("test_")))
