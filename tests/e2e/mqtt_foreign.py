#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Sessions, wills, shares, properties and flow control with two C libraries that others wrote: libmosquitto and Eclipse
Paho's (foreign_checks.c, at $FOREIGN_MOSQUITTO and $FOREIGN_PAHO), each check on a gateway of its own, several at
once because they wait more than they work."""

import concurrent.futures
import os
import subprocess
import threading

from gateway import Gateway, run
from relay import TO_CLIENT, TO_GATEWAY, Relay
from wire import PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL

MOSQUITTO, PAHO = (os.environ.get("FOREIGN_" + name.upper(), "build/release/foreign_" + name)
                   for name in ("mosquitto", "paho"))


def check(program, name, cuts=(), *sets):
    """Runs one check; returns the relay, whose cuts all have to be made."""
    gateway = Gateway(None, *sets)
    relay = Relay(gateway.mqtt_port, cuts)
    with subprocess.Popen([program, str(gateway.mqtt_port), str(relay.port), name], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as process:
        late = threading.Timer(60, process.kill)
        late.start()
        for line in process.stdout:  # what shall happen to the gateway
            if line == "kill\n":
                gateway.kill9()
                gateway.start()
                relay.gateway = gateway.mqtt_port
            else:
                assert line == "stop\n" and gateway.stop() == 0, line
            process.stdin.write("done\n")
            process.stdin.flush()
        code = process.wait()
        late.cancel()
        assert code == 0, (program, name, code)
    assert not relay.cuts, "%s: not broken at %r" % (program, relay.cuts)
    assert gateway.stop() == 0
    relay.close()
    return relay


def together(*checks):
    with concurrent.futures.ThreadPoolExecutor(len(checks)) as pool:
        return list(pool.map(lambda arguments: check(*arguments), checks))


def with_both(*names):
    together(*((program, name) for name in names for program in (MOSQUITTO, PAHO)))


def test_what_clients_ask_for():
    with_both("sessions", "wills", "shares", "properties", "expiry", "requests")


def test_exactly_once():
    """Connections break at every step of QoS 2, at once and in the midst of more, both ways: each message arrives once."""
    out_steps = [(TO_CLIENT, PUBREC), (TO_GATEWAY, PUBREL), (TO_CLIENT, PUBCOMP)]
    in_steps = [(TO_CLIENT, PUBLISH), (TO_GATEWAY, PUBREC), (TO_CLIENT, PUBREL), (TO_GATEWAY, PUBCOMP)]
    few = ("mqtt.inflight_max=4", "mqtt.receive_max=4")  # so that something is left to send after each break

    def broken(program, name, steps):
        return program, name, [step + (n,) for n in (1, 4) for step in steps], *few

    # libmosquitto 2.0.11 shows a message twice that came twice, because its PUBREC was lost.
    together(*(broken(*one) for version in "345" for one in (
        (MOSQUITTO, "out_" + version, out_steps), (PAHO, "out_" + version, out_steps), (PAHO, "in_" + version, in_steps))))


def test_ends():
    """kill -9: sessions, what is under way, wills, durable shares; a member that goes with a message in hand; sessions that
    are taken over; clients that are sent to another server. And topics with a meaning of their own, and small packets."""
    both = [(program, name) for name in ("killed", "killed_wills", "durable", "takeover", "addresses", "sizes")
            for program in (MOSQUITTO, PAHO)]
    together(*both, *((program, "farewell", (), "mqtt.server_reference=other.example:1883") for program in (MOSQUITTO, PAHO)),
             (PAHO, "members", [(TO_GATEWAY, PUBACK, 1)] * 2))  # libmosquitto has no thread that would see the break


def test_aliases():
    check(PAHO, "aliases")  # libmosquitto 2.0.11 leaves them to its user, both ways


def test_flow():
    """Neither side has more under way than the other one allows; the gateway as many."""
    for relay in together(*((program, "flow", (), "mqtt.receive_max=5") for program in (MOSQUITTO, PAHO))):
        assert relay.unanswered_max[TO_GATEWAY] <= 5 and relay.unanswered_max[TO_CLIENT] == 3, relay.unanswered_max


run(*(value for name, value in list(globals().items()) if name.startswith("test_")))
