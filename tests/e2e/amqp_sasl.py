# SPDX-License-Identifier: Apache-2.0
"""Who is let in over AMQP: every mechanism, also with all that a client has to say in one write, and who is turned away."""
import base64
import contextlib
import hashlib
import hmac
import os
import shutil
import ssl
import tempfile

import gateway
from amqpwire import (AMQP, BEGIN, CHALLENGE, CLOSE, INIT, MECHANISMS, OPEN, OUTCOME, RESPONSE, SASL, Symbol, Wire, decode, frame)
from certificates import certificates
from gateway import run, until
from refusals import counted

LET_IN, AUTH, TEMP = 0, 1, 4
ANN = {"Authorization": "Basic " + base64.b64encode(b"ann:secret").decode()}
SOLE = Symbol("sole-connection-for-container")
ONWARD = AMQP + frame(OPEN, ["c"]) + frame(BEGIN, [None, 0, 9, 9])

def sasl(wire, mechanism, first):
    wire.header(SASL)
    mechanisms = wire.expect(MECHANISMS)
    wire.send(frame(INIT, [Symbol(mechanism), first], kind=1))
    return mechanisms


def outcome(body):
    return body[body.index(b"\x50") + 1]


def goes_on(wire):
    """What was said behind the exchange has been heard."""
    wire.expect_bytes(AMQP)
    wire.expect(OPEN)
    wire.expect(BEGIN)


def in_one_write(port, mechanism, first, tls=None, cuts=()):
    """The outcome for a client that does not wait for it, nor for the mechanisms."""
    with Wire(port) as wire:
        if tls is not None:
            wire.socket = tls.wrap_socket(wire.socket, server_hostname="127.0.0.1")
        said = SASL + frame(INIT, [Symbol(mechanism), first], kind=1) + ONWARD
        for at, to in zip((0,) + cuts, cuts + (len(said),)):
            wire.send(said[at:to])
        wire.expect_bytes(SASL)
        wire.expect(MECHANISMS)
        code = outcome(wire.expect(OUTCOME))
        if code == LET_IN:
            goes_on(wire)
        else:
            assert wire.until_end() == b"", wire.received  # and not a word of AMQP
        return code


def everything_in_one_write(running):
    """Without users, with them, and with what anonymous clients act as; refused ones are counted."""
    port = running.amqp_port
    assert in_one_write(port, "PLAIN", b"\0ann\0secret") == LET_IN
    assert in_one_write(port, "ANONYMOUS", b"") == LET_IN
    assert in_one_write(port, "EXTERNAL", b"") == AUTH
    assert running.call("PUT", "/v1/default/users/ann", {"password": "secret"})[0] == 201
    assert in_one_write(port, "PLAIN", b"\0ann\0secret") == LET_IN
    size = len(SASL + frame(INIT, [Symbol("PLAIN"), b"\0ann\0secret"], kind=1))
    for cuts in ((size,), (size + 3,), (size - 1, size + 8), (3, 8, size + 9)):
        assert in_one_write(port, "PLAIN", b"\0ann\0secret", cuts=cuts) == LET_IN, cuts
    for mechanism, first, reason in (("PLAIN", b"\0ann\0wrong", "unauthenticated"), ("PLAIN", b"nothing", "rights"),
                                     ("ANONYMOUS", b"", "rights"), ("EXTERNAL", b"", "rights"), ("NONSENSE", b"", "rights")):
        before = counted(running, reason, ANN)
        assert in_one_write(port, mechanism, first) == AUTH, mechanism
        assert counted(running, reason, ANN) == before + 1, (mechanism, first)
    assert counted(running, "malformed", ANN) == 0


def anonymous_as_somebody():
    running = gateway.Gateway(None, "amqp.anonymous=guest")
    for user in ("ann", "guest"):
        assert running.call("PUT", f"/v1/default/users/{user}", {"password": "secret"}, ANN if user != "ann" else None)[0] == 201
    assert in_one_write(running.amqp_port, "ANONYMOUS", b"") == LET_IN
    assert running.stop() == 0


def one_too_many_in_one_write():
    running = gateway.Gateway(None, "limit.connection_rate=2")
    codes = [in_one_write(running.amqp_port, "PLAIN", b"\0ann\0secret") for _ in range(12)]
    assert codes[0] == LET_IN and codes[-1] == TEMP, codes
    assert running.stop() == 0


def certificates_are_users():
    """EXTERNAL: the subject of the certificate, and nobody else; in one write and by turns."""
    folder = tempfile.mkdtemp(prefix="polylog-tls-")
    try:
        inside = certificates(folder)
        running = gateway.Gateway(None, "tls.cert=" + inside["server.pem"], "tls.key=" + inside["server.key"],
                                  "tls.client_ca=" + inside["ca.pem"], "http.tls_port=off", "mqtt.tls_port=off")
        port = running.ports["amqps"]
        trust = ssl.create_default_context(cafile=inside["ca.pem"])
        trust.load_cert_chain(inside["device.pem"], inside["device.key"])
        assert in_one_write(port, "EXTERNAL", b"", trust) == LET_IN  # nobody is asked who they are
        assert running.call("PUT", "/v1/default/users/ann", {"password": "secret"})[0] == 201
        assert in_one_write(port, "EXTERNAL", b"", trust) == AUTH  # there is no such user
        with Wire(port) as wire:  # so a client that has a password as well goes on to that
            wire.socket = trust.wrap_socket(wire.socket, server_hostname="127.0.0.1")
            offered = sasl(wire, "PLAIN", b"\0ann\0secret")
            assert b"EXTERNAL" not in offered and b"SCRAM-SHA-256" in offered and b"PLAIN" in offered, offered
            assert outcome(wire.expect(OUTCOME)) == LET_IN
            wire.open()
        assert running.call("PUT", "/v1/default/users/CN=device7", {"password": "secret"}, ANN)[0] == 201
        assert in_one_write(port, "EXTERNAL", b"", trust) == LET_IN
        with Wire(port) as wire:
            wire.socket = trust.wrap_socket(wire.socket, server_hostname="127.0.0.1")
            assert b"EXTERNAL" in sasl(wire, "EXTERNAL", b"")
            assert outcome(wire.expect(OUTCOME)) == LET_IN
            wire.open()
        assert in_one_write(running.amqp_port, "EXTERNAL", b"") == AUTH  # without TLS there is none
        assert running.stop() == 0
    finally:
        shutil.rmtree(folder)


def scram(running, user, password, spoil=b"", in_pairs=False):
    """True: let in. The proof of the server is looked at. in_pairs: with the header, and with what comes behind SASL."""
    with Wire(running.amqp_port) as wire:
        nonce = base64.b64encode(os.urandom(9)).decode()
        bare = f"n={user},r={nonce}"
        if in_pairs:
            wire.send(SASL + frame(INIT, [Symbol("SCRAM-SHA-256"), ("n,," + bare).encode()], kind=1))
            wire.expect_bytes(SASL)
            wire.expect(MECHANISMS)
        else:
            assert b"SCRAM-SHA-256" in sasl(wire, "SCRAM-SHA-256", ("n,," + bare).encode())
        answer = wire.expect(CHALLENGE)
        server_first = answer[answer.index(b"r="):].decode()
        fields = dict(part.split("=", 1) for part in server_first.split(","))
        salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(fields["s"]), int(fields["i"]))
        key = hmac.digest(salted, b"Client Key", "sha256")
        without_proof = f"c=biws,r={fields['r']}"
        signed = f"{bare},{server_first},{without_proof}".encode()
        signature = hmac.digest(hashlib.sha256(key).digest(), signed, "sha256")
        proof = base64.b64encode(bytes(a ^ b for a, b in zip(key, signature))).decode()
        wire.send(frame(RESPONSE, [f"{without_proof},p={proof}".encode() + spoil], kind=1))
        code = wire.next_frame()
        if code[2] == OUTCOME:
            assert outcome(code[3:]) == AUTH, code
            return False
        server_key = hmac.digest(salted, b"Server Key", "sha256")
        assert base64.b64encode(hmac.digest(server_key, signed, "sha256")) in code, code
        wire.send(frame(RESPONSE, [b""], kind=1) + (ONWARD if in_pairs else b""))
        said = wire.expect(OUTCOME)
        assert outcome(said) == LET_IN and b"v=" not in said, said  # Qpid JMS wants no proof twice
        if in_pairs:
            goes_on(wire)
        else:
            wire.open()
        return True


def passwords_are_proven_without_being_sent(running):
    assert running.call("PUT", "/v1/default/users/ann", {"password": "secret"})[0] == 201
    for in_pairs in (False, True):
        assert scram(running, "ann", "secret", in_pairs=in_pairs)
        assert not scram(running, "ann", "wrong", in_pairs=in_pairs)
    assert not scram(running, "eve", "secret")
    assert not scram(running, "ann", "secret", b",more")
    for mechanism, first in (("PLAIN", b""), ("PLAIN", b"\0ann"), ("PLAIN", b"bob\0ann\0secret"), ("PLAIN", b"\0\0\0"),
                             ("EXTERNAL", b""), ("ANONYMOUS", b""), ("NONSENSE", b"x"), ("SCRAM-SHA-256", b"n,,"),
                             ("PLAIN", b"\0" + b"a" * 5000 + b"\0" + b"b" * 5000)):
        with Wire(running.amqp_port) as wire:
            sasl(wire, mechanism, first)
            assert b"\x50\x01" in wire.expect(OUTCOME), mechanism
    with Wire(running.amqp_port) as wire:  # without SASL at all
        wire.send(AMQP + frame(OPEN, ["x"]))
        assert wire.until_end() == SASL, wire.received
    before = counted(running, "malformed", ANN)
    with Wire(running.amqp_port) as wire:  # goes on as if the challenge were an outcome
        wire.send(SASL + frame(INIT, [Symbol("SCRAM-SHA-256"), b"n,,n=ann,r=x"], kind=1) + ONWARD)
        said = wire.until_end()
        assert said.startswith(SASL) and AMQP not in said, said
    assert counted(running, "malformed", ANN) == before + 1


def opened(wire, container, desires=SOLE, user=None):
    """The answer to the open, or None: it was refused because another connection has the container id."""
    if user is not None:
        sasl(wire, "PLAIN", f"\0{user}\0secret".encode())
        assert outcome(wire.expect(OUTCOME)) == LET_IN
    wire.header()
    wire.send(frame(OPEN, [container, None, None, None, None, None, None, None, desires]))
    answer = wire.expect(OPEN)
    if b"amqp:connection-establishment-failed" not in answer:
        assert (b"sole-connection-for-container" in answer) == (desires is not None and container != ""), answer
        return answer
    (error,), _ = decode(wire.expect(CLOSE))
    assert error.value[0] == "amqp:invalid-field" and error.value[2] == {"invalid-field": "container-id"}, error.value
    return None


def comes(running, container, **more):
    with Wire(running.amqp_port) as wire:
        return opened(wire, container, **more) is not None


def a_container_id_is_one_connections(running):
    """Of those of a user that ask for it, on all workers, and free when that has ended, however it did."""
    names = [f"c{n}" for n in range(8)]
    with contextlib.ExitStack() as stack:
        holders = {name: stack.enter_context(Wire(running.amqp_port)) for name in names}
        for name, wire in holders.items():
            assert opened(wire, name) is not None
        for name in names:
            assert not comes(running, name) and not comes(running, name)
            assert comes(running, name, desires=None)
        for name in ("", "", "else"):
            with Wire(running.amqp_port) as wire:
                assert opened(wire, name) is not None and ("" == name or not comes(running, name))
        holders["c0"].send(frame(CLOSE, []))
        holders["c0"].expect(CLOSE)
        assert comes(running, "c0")
        holders["c1"].send(b"this is no frame")
        holders["c1"].expect(CLOSE)
        assert comes(running, "c1")
        holders["c2"].socket.close()
        assert until(lambda: comes(running, "c2"))
        row, = (row for row in running.call("GET", "/v1/default/connections")[1]["connections"] if row["client_id"] == "c3")
        assert running.call("DELETE", f"/v1/default/connections/{row['id']}")[0] == 204
        holders["c3"].expect(CLOSE)
        assert comes(running, "c3")
        for _ in range(20):  # who asks, and is gone
            with Wire(running.amqp_port) as wire:
                wire.send(AMQP + frame(OPEN, ["c4", None, None, None, None, None, None, None, SOLE]) +
                          frame(OPEN, ["c5", None, None, None, None, None, None, None, SOLE]))
        assert not comes(running, "c4")
        holders["c4"].socket.close()
        assert until(lambda: comes(running, "c4"))
        assert running.call("PUT", "/v1/default/users/ann", {"password": "secret"})[0] == 201
        assert running.call("PUT", "/v1/default/users/bob", {"password": "secret"}, ANN)[0] == 201
        for user in ("ann", "bob"):
            wire = stack.enter_context(Wire(running.amqp_port))
            assert opened(wire, "same", user=user) is not None
            assert not comes(running, "same", user=user)


if __name__ == "__main__":
    run(everything_in_one_write, anonymous_as_somebody, one_too_many_in_one_write, certificates_are_users,
        passwords_are_proven_without_being_sent, a_container_id_is_one_connections)
