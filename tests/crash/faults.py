#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Disks and directories as they should not be: refused in clear words, and nothing is touched that is not understood."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from gateway import POLYLOGD, Gateway, run  # noqa: E402
from wire import *  # noqa: E402, F403 - the names of the protocol


def state_of(folder):
    """Name -> hash, of every file."""
    found = {}
    for path, folders, files in os.walk(folder):
        for name in folders:
            found[os.path.join(path, name)] = "folder"
        for name in files:
            with open(os.path.join(path, name), "rb") as file:
                found[os.path.join(path, name)] = hashlib.sha256(file.read()).hexdigest()
    return found


def refused(data, *words):
    """polylogd does not start, says the words, and leaves the directory as it is."""
    before = state_of(data)
    result = subprocess.run([POLYLOGD, "--data", data, "--set", "mqtt.port=0", "--set", "amqp.port=0", "--set", "http.port=0"],
                            capture_output=True, text=True, timeout=20, check=False)
    assert result.returncode == 1, (result.returncode, result.stderr)
    assert "ready" not in result.stdout
    for word in words:
        assert word in result.stderr, "%r is not said: %s" % (word, result.stderr)
    assert data in result.stderr, "the directory is not named: %s" % result.stderr
    after = state_of(data)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert not changed, "changed: %s" % sorted(changed)


def stored(count=20):
    """A directory that holds something."""
    gateway = Gateway(tempfile.mkdtemp(prefix="polylog-faults-"))
    with Client(gateway.mqtt_port, 5).connect("writer") as writer:
        for i in range(count):
            assert writer.publish("kept/%d" % (i % 3), "%d" % i, 1) == 0
    assert gateway.stop() == 0
    return gateway.data


def remove(data):
    shutil.rmtree(data)
    os.remove(data + ".log")


def metrics(gateway):
    status, text = gateway.call("GET", "/metrics")
    assert status == 200
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if line and line[0] != "#")
    return {name: float(value) for name, value in pairs}


def total(values, name):
    return sum(value for key, value in values.items() if key.split("{")[0] == name)


def test_full_disk():
    data = stored()
    gateway = Gateway(data, "storage.min_free=1000T")
    before = metrics(gateway)
    with Client(gateway.mqtt_port, 5).connect("reader") as reader, \
            Client(gateway.mqtt_port, 5).connect("new") as new, \
            Client(gateway.mqtt_port, 4).connect("old") as old:
        reader.subscribe(("f/#", 1))
        assert new.publish("f/1", "x", 1) == 0x83
        assert new.publish("f/1", "x", 2) == 0x83
        new.publish("f/0", "live", 0)  # is not stored, so it passes
        assert reader.delivery().payload == b"live"
        new.ping()
        old.send(publish(4, "f/1", b"x", 1))
        assert old.expect_end() is None
        reader.expect_silence(0.1)
    status, _ = gateway.call("POST", "/v1/default/publish", {"topic": "f/1", "messages": [{"body": "x"}]})
    assert status == 503, status
    after = metrics(gateway)
    assert total(after, "polylog_refused_total") - total(before, "polylog_refused_total") >= 4
    assert total(after, "polylog_queue_records") == 20
    status, _ = gateway.call("GET", "/readyz")
    assert status == 503, status
    status, _ = gateway.call("GET", "/healthz")
    assert status == 200, status
    assert gateway.stop() == 0
    gateway = Gateway(data)  # there is room again
    with Client(gateway.mqtt_port, 4).connect("old") as old:
        assert old.publish("f/1", "x", 1) == 0
    assert total(metrics(gateway), "polylog_queue_records") == 21
    assert gateway.stop() == 0
    remove(data)


def test_another_version():
    data = stored()
    path = os.path.join(data, "polylog-format")
    with open(path, "rb") as file:
        known = file.read()
    for other in (known.replace(b"2", b"1", 1), known.replace(b"2", b"3", 1), b"", b"something else\n"):
        assert other != known
        with open(path, "wb") as file:
            file.write(other)
        refused(data)
    with open(path, "wb") as file:
        file.write(known)
    gateway = Gateway(data)
    assert total(metrics(gateway), "polylog_queue_records") == 20
    assert gateway.stop() == 0
    remove(data)


def test_not_ours():
    data = tempfile.mkdtemp(prefix="polylog-faults-")
    with open(os.path.join(data, "holiday.jpg"), "wb") as file:
        file.write(b"\xff\xd8")
    refused(data, "holiday.jpg", "empty")
    os.remove(os.path.join(data, "holiday.jpg"))
    file = os.path.join(data, "file")
    with open(file, "wb"):
        pass
    result = subprocess.run([POLYLOGD, "--data", file], capture_output=True, text=True, timeout=20, check=False)
    assert result.returncode == 1 and file in result.stderr, result
    shutil.rmtree(data)


def test_unreadable():
    """A file that cannot be read, and files whose content is not what it was."""
    data = stored()
    for name in sorted(os.listdir(data)):
        if not name.startswith(("MANIFEST", "CURRENT", "polylog-format")):
            continue
        path = os.path.join(data, name)
        shutil.copy(path, data + ".kept")
        with open(path, "r+b") as file:
            file.write(b"\xa5" * os.path.getsize(path))
        refused(data)
        os.remove(path)
        os.mkdir(path)  # also root cannot read it now
        refused(data)
        os.rmdir(path)
        shutil.move(data + ".kept", path)
    with open(os.path.join(data, "polylog-marker"), "wb") as file:  # only tells whether something is missing
        file.write(b"\xa5" * 64)
    gateway = Gateway(data)
    assert "polylog-marker" in gateway.stderr()
    assert total(metrics(gateway), "polylog_queue_records") == 20
    assert gateway.stop() == 0
    remove(data)


def test_second_gateway():
    gateway = Gateway()
    with Client(gateway.mqtt_port, 4).connect("a") as client:
        assert client.publish("s", "1", 1) == 0
        result = subprocess.run([POLYLOGD, "--data", gateway.data, "--set", "mqtt.port=0", "--set", "amqp.port=0", "--set", "http.port=0"],
                                capture_output=True, text=True, timeout=20, check=False)
        assert result.returncode == 1, result
        assert gateway.data in result.stderr and ("another" in result.stderr or "in use" in result.stderr), result.stderr
        assert client.publish("s", "2", 1, packet_id=2) == 0
    gateway.kill9()
    gateway.start()  # a lock does not outlive its process
    assert total(metrics(gateway), "polylog_queue_records") == 2
    assert gateway.stop() == 0


run(*(value for name, value in list(globals().items()) if name.startswith("test_")))
