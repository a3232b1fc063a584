#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Enhanced authentication: SCRAM-SHA-256 over AUTH packets, at CONNECT and again later."""

import base64
import hashlib
import hmac
import os
import subprocess
import tempfile

from gateway import POLYLOG, Gateway, run
from wire import *  # noqa: F403 - the names of the protocol

METHOD = b"SCRAM-SHA-256"
USER_NAME, PASSWORD = "ro=o,t", "first of all"


class Scram:
    """A client's side (RFC 5802), made here from the standard library."""

    def __init__(self, user, password):
        self.password = password
        self.nonce = base64.b64encode(os.urandom(12)).decode()
        self.first = "n=%s,r=%s" % (user.replace("=", "=3D").replace(",", "=2C"), self.nonce)

    def begin(self):
        return ("n,," + self.first).encode()

    def prove(self, challenge):
        fields = dict(part.split("=", 1) for part in challenge.decode().split(","))
        assert fields["r"].startswith(self.nonce) and len(fields["r"]) >= len(self.nonce) + 16, challenge
        salted = hashlib.pbkdf2_hmac("sha256", self.password.encode(), base64.b64decode(fields["s"]), int(fields["i"]))
        key = hmac.digest(salted, b"Client Key", "sha256")
        final = "c=biws,r=" + fields["r"]
        text = ",".join((self.first, challenge.decode(), final)).encode()
        signature = hmac.digest(hashlib.sha256(key).digest(), text, "sha256")
        self.expected = b"v=" + base64.b64encode(
            hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), text, "sha256"))
        proof = bytes(a ^ b for a, b in zip(key, signature))
        return (final + ",p=" + base64.b64encode(proof).decode()).encode()


def prepare():
    data = tempfile.mkdtemp(prefix="polylog-auth-")
    subprocess.run([POLYLOG, "user", "add", USER_NAME, "--data", data], input=PASSWORD + "\n", text=True, check=True,
                   timeout=60)
    gateway = Gateway(data)
    gateway.owns_data = True
    return gateway


def auth(reason, data=None, method=METHOD):
    props = [(AUTH_METHOD, method)] if method is not None else []
    props += [(AUTH_DATA, data)] if data is not None else []
    return packet(AUTH, 0, bytes([reason]) + properties(props))


def challenged(client, scram, reason=0x18):
    got = client.expect(AUTH)
    assert got.reason == 0x18 and got.get(AUTH_METHOD) == METHOD, got
    return scram.prove(got.get(AUTH_DATA))


def connect(gateway, scram, client_id="c", props=(), **options):
    client = Client(gateway.mqtt_port, 5)
    client.connect(client_id, props=[(AUTH_METHOD, METHOD), (AUTH_DATA, scram.begin())] + list(props), accept=False,
                   **options)
    client.send(auth(0x18, challenged(client, scram)))
    return client


def accepted(client, scram):
    client.connack = client.expect(CONNACK)
    assert client.connack.reason == 0, client.connack
    assert client.connack.get(AUTH_METHOD) == METHOD
    assert client.connack.get(AUTH_DATA) == scram.expected  # the server knows the password, too
    return client


def test_connect():
    gateway = prepare()
    scram = Scram(USER_NAME, PASSWORD)
    with accepted(connect(gateway, scram, props=[(SESSION_EXPIRY, 100)]), scram) as client:
        assert client.publish("a", "x", 1) == 0
        client.subscribe(("a", 1))
    scram = Scram(USER_NAME, PASSWORD)
    with accepted(connect(gateway, scram, clean=False, props=[(SESSION_EXPIRY, 100)]), scram) as client:
        assert client.connack.body[0] & 1  # a session as any other
    scram = Scram(USER_NAME, PASSWORD)  # without data in CONNECT the client begins with AUTH
    with Client(gateway.mqtt_port, 5) as client:
        client.connect("", props=[(AUTH_METHOD, METHOD)], accept=False)
        got = client.expect(AUTH)
        assert got.reason == 0x18 and got.get(AUTH_METHOD) == METHOD and got.get(AUTH_DATA) is None, got
        client.send(auth(0x18, scram.begin()))
        client.send(auth(0x18, challenged(client, scram)))
        accepted(client, scram)
        assert client.connack.get(ASSIGNED_ID)
    assert gateway.stop() == 0


def test_refused():
    gateway = prepare()
    for user, password in ((USER_NAME, "wrong"), ("nobody", PASSWORD)):
        with connect(gateway, Scram(user, password)) as client:
            assert client.expect_end() == 0x86
    with Client(gateway.mqtt_port, 5) as client:
        client.connect("c", props=[(AUTH_METHOD, b"SCRAM-SHA-1")], accept=False)
        assert client.expect_end() == 0x8C
    for first in (b"", b"x", b"p=tls-unique,,n=a,r=b", b"n,,n=a"):
        with Client(gateway.mqtt_port, 5) as client:
            client.connect("c", props=[(AUTH_METHOD, METHOD), (AUTH_DATA, first)], accept=False)
            assert client.expect_end() == 0x87
    # Another method, another packet, or a reason that does not fit, in the middle of it.
    ping = packet(PINGREQ, 0, b"")
    for wrong in (auth(0x18, b"", b"PLAIN"), auth(0x18, b"", None), auth(0x19, b"x"), ping):
        with Client(gateway.mqtt_port, 5) as client:
            client.connect("c", props=[(AUTH_METHOD, METHOD), (AUTH_DATA, Scram("a", "b").begin())], accept=False)
            client.expect(AUTH)
            client.send(wrong)
            assert client.expect_end() == 0x82
    with Client(gateway.mqtt_port, 5) as client:  # a server does not accept the challenge of another one
        scram = Scram(USER_NAME, PASSWORD)
        client.connect("c", props=[(AUTH_METHOD, METHOD), (AUTH_DATA, scram.begin())], accept=False)
        client.expect(AUTH)
        client.send(auth(0x18, scram.prove(b"r=" + scram.nonce.encode() + b"0123456789abcdef,s=AAAA,i=1")))
        assert client.expect_end() == 0x86
    gone = Client(gateway.mqtt_port, 5)
    gone.connect("c", props=[(AUTH_METHOD, METHOD)], accept=False)
    gone.expect(AUTH)
    gone.close()
    token = base64.b64encode((USER_NAME + ":" + PASSWORD).encode()).decode()
    metrics = gateway.call("GET", "/metrics", headers={"Authorization": "Basic " + token})[1]
    refused = [line for line in metrics.splitlines()
               if line.startswith("polylog_refused_total") and 'protocol="mqtt",reason="rights"' in line]
    assert refused and float(refused[0].split()[-1]) >= 2, refused
    assert gateway.stop() == 0


def test_again():
    """Re-authentication: traffic goes on meanwhile, another user or a wrong proof ends the connection."""
    gateway = prepare()
    scram = Scram(USER_NAME, PASSWORD)
    with accepted(connect(gateway, scram), scram) as client:
        for _ in range(2):
            scram = Scram(USER_NAME, PASSWORD)
            client.send(auth(0x19, scram.begin()))
            proof = challenged(client, scram)
            assert client.publish("a", "x", 1) == 0
            client.send(auth(0x18, proof))
            got = client.expect(AUTH)
            assert got.reason == 0 and got.get(AUTH_METHOD) == METHOD and got.get(AUTH_DATA) == scram.expected
        scram = Scram(USER_NAME, "wrong")
        client.send(auth(0x19, scram.begin()))
        client.send(auth(0x18, challenged(client, scram)))
        assert client.expect_end() == 0x87
    for wrong in (auth(0x18, b""), auth(0x19, b"", b"PLAIN"), auth(0x19, b"", None)):
        scram = Scram(USER_NAME, PASSWORD)
        with accepted(connect(gateway, scram), scram) as client:
            client.send(wrong)
            assert client.expect_end() == 0x82
    with Client(gateway.mqtt_port, 5).connect("c", user=USER_NAME, password=PASSWORD) as client:
        assert client.connack.get(AUTH_METHOD) is None and client.connack.get(AUTH_DATA) is None
        client.send(auth(0x19, b""))  # CONNECT named no method
        assert client.expect_end() == 0x82
    subprocess.run([POLYLOG, "--url", "http://127.0.0.1:%d" % gateway.http_port, "--user", USER_NAME + ":" + PASSWORD,
                    "user", "add", "other"], input="pass\n", text=True, check=True, timeout=60)
    scram = Scram(USER_NAME, PASSWORD)
    with accepted(connect(gateway, scram), scram) as client:
        scram = Scram("other", "pass")
        client.send(auth(0x19, scram.begin()))
        client.send(auth(0x18, challenged(client, scram)))
        assert client.expect_end() == 0x87
    assert gateway.stop() == 0


def test_without_users(gateway):
    """Where nobody is known, nobody can prove anything."""
    with Client(gateway.mqtt_port, 5) as client:
        client.connect("c", props=[(AUTH_METHOD, METHOD), (AUTH_DATA, Scram("a", "b").begin())], accept=False)
        assert client.expect_end() == 0x86


if __name__ == "__main__":
    run(test_connect, test_refused, test_again, test_without_users)
