# SPDX-License-Identifier: Apache-2.0
"""Streams that broke, or led into every corner of, Apache Qpid Proton: none of them ends the gateway, stays connected or is
kept in its memory, whole or cut anywhere, behind a login or without one."""
import pathlib
import random
import tarfile

from amqpwire import AMQP, INIT, OPEN, SASL, Symbol, Wire, frame
from gateway import run, until
from mqtt_stalled import rss_mib

SEEDS = pathlib.Path(__file__).parent.parent / "fuzz" / "qpid_seeds.tar.xz"


def streams():
    with tarfile.open(SEEDS) as archive:
        for member in archive:
            if member.isfile() and "message-decode" not in member.name:
                yield member.name.split("/")[-1], archive.extractfile(member).read()


def connections(running):
    for line in running.call("GET", "/metrics")[1].splitlines():
        if line.startswith('polylog_connections{protocol="amqp"}'):
            return int(line.split()[-1])
    raise AssertionError("no metric of connections")


def said_to(running, data):
    """All that is answered to a client that sends this and then nothing any more."""
    with Wire(running.amqp_port) as wire:
        try:
            wire.send(data)
            wire.socket.shutdown(1)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it was refused before its end
        except OSError as problem:
            assert problem.errno == 107, problem  # not connected any more
        return wire.until_end()


def every_stream_ends(running):
    """Each as it is; most of them begin with the protocol's header, and are answered with it at least."""
    begun = answered = count = 0
    for name, data in streams():
        said = said_to(running, data)
        count += 1
        if data.startswith(AMQP):
            begun += 1
            answered += said.startswith(AMQP)
    assert count == 1779 and answered == begun > 1000, (count, begun, answered)
    until(lambda: connections(running) == 0)


def streams_go_on_behind_an_open(running):
    """What comes behind another client's good beginning is read as frames, wherever it was cut off."""
    choose = random.Random(7)
    login = SASL + frame(INIT, [Symbol("ANONYMOUS")], kind=1)
    chosen = choose.sample(list(streams()), 400)
    before = rss_mib(running)
    for name, data in chosen:
        rest = data[8:] if data.startswith(AMQP) else data
        beginning = choose.choice((AMQP + frame(OPEN, ["c"]), login + AMQP + frame(OPEN, ["c"]), login))
        said = said_to(running, beginning + rest[:choose.randrange(len(rest) + 1)])
        assert said.startswith(beginning[:4]), (name, said[:20])
    until(lambda: connections(running) == 0)
    assert rss_mib(running) < before + 32, (before, rss_mib(running))
    with Wire(running.amqp_port) as wire:
        wire.open("after")


if __name__ == "__main__":
    run(every_stream_ends, streams_go_on_behind_an_open)
