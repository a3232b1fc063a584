# SPDX-License-Identifier: Apache-2.0
"""What all links of a connection leave unsettled of queues has one bound; beyond it nothing comes before something is settled."""
import struct

from amqp_memory import fill, flow
from amqpwire import ACCEPTED, DISPOSITION, FLOW, TRANSFER, Described, Wire, decode, frame
from gateway import run
from mqtt_stalled import SANITIZED, rss_mib

LEASES_MAX = 262144  # LIMIT_CLIENT_LEASES
LINKS, EACH = 5, 60000


class Counter:
    """Counts transfers, which are many, and keeps the last FLOW."""

    def __init__(self, wire):
        self.wire, self.count, self.flow = wire, 0, None

    def read(self, over, seconds=60):
        """Until over() is true, or nothing comes for so long."""
        self.wire.socket.settimeout(seconds)
        try:
            while not over():
                self.take(self.wire.socket.recv(1 << 20))
        except TimeoutError:
            pass

    def take(self, piece):
        if not piece:
            raise EOFError
        data, at = self.wire.received + piece, 0
        while len(data) - at >= 4:
            size, = struct.unpack_from(">I", data, at)
            if len(data) - at < size:
                break
            code = data[at + 10] if size > 8 else 0
            self.count += code == TRANSFER
            if code == FLOW:
                self.flow = decode(data, at + 11)[0]
            at += size
        self.wire.received = data[at:]


def unsettled_of_all_links_is_bounded(running):
    fill(running, "q", [16] * EACH)
    assert running.call("PATCH", "/v1/default/queues/q", {"lease_ms": 600000})[0] == 200
    before = rss_mib(running)
    with Wire(running.amqp_port, 60) as wire:
        wire.open()
        for link in range(LINKS):
            wire.attach(f"r{link}", link, f"/queues/q/groups/g{link}", receiver=True)
        for link in range(LINKS):
            wire.send(flow(link, EACH))
        counter = Counter(wire)
        counter.read(lambda: counter.count >= LEASES_MAX)
        counter.read(lambda: counter.count > LEASES_MAX, 1)
        assert counter.count == LEASES_MAX, counter.count
        print(f"{rss_mib(running) - before} MiB more")
        assert SANITIZED or rss_mib(running) - before < 500
        # The drain of the last link is answered, and takes its credit; then it has some again, and waits.
        wire.send(flow(LINKS - 1, EACH, drain=True, frames=counter.count))
        counter.read(lambda: counter.flow is not None)
        assert counter.flow[4] == LINKS - 1 and counter.flow[6] == 0, counter.flow
        wire.send(flow(LINKS - 1, EACH, counter.flow[5], frames=counter.count))
        counter.read(lambda: counter.count > LEASES_MAX, 1)
        assert counter.count == LEASES_MAX, counter.count
        for first in range(0, 3000, 1000):
            wire.send(frame(DISPOSITION, [True, first, first + 999, True, Described(ACCEPTED, [])]))
            counter.read(lambda: counter.count >= LEASES_MAX + first + 1000)
            counter.read(lambda: counter.count > LEASES_MAX + first + 1000, 1)
            assert counter.count == LEASES_MAX + first + 1000, counter.count


if __name__ == "__main__":
    run(unsettled_of_all_links_is_bounded)
