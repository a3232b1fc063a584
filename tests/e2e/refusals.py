# SPDX-License-Identifier: Apache-2.0
"""How a gateway is seen to refuse what AMQP clients send: in the protocol's words, counted once, and nobody else feels it."""
import struct

from amqpwire import Wire
from mqtt_stalled import RSS_MIB_MAX, rss_mib


def counted(running, reason, headers=None):
    for line in running.call("GET", "/metrics", headers=headers)[1].splitlines():
        if line.startswith(f'polylog_refused_total{{protocol="amqp",reason="{reason}"}}'):
            return int(line.split()[-1])
    return 0


def all_counted(running):
    return {reason: counted(running, reason) for reason in ("malformed", "limit", "rights", "timeout")}


def refused(running, before, condition, reason="malformed"):
    """Counted once and for that reason; condition None: nothing was wrong."""
    wanted = {name: count + (condition is not None and name == reason) for name, count in before.items()}
    return all_counted(running) == wanted


def group(running, figure, name):
    return int(running.call("GET", "/metrics")[1].split(f'polylog_group_{figure}{{queue="{name}",group="amqp"}} ')[1].split()[0])


def serves(running):
    """Somebody else is served as ever, and memory is bounded."""
    assert rss_mib(running) < RSS_MIB_MAX
    with Wire(running.amqp_port) as wire:
        wire.open("other")


def close_of(said):
    """The condition of the last frame, which is a close."""
    at = said.rindex(b"\x00\x53\x18")
    size, = struct.unpack(">I", said[at - 8:at - 4])
    assert at - 8 + size == len(said), said[at:]
    start = said.index(b"\x00\x53\x1d\xc0", at) + 6
    return said[start + 2:start + 2 + said[start + 1]].decode()
