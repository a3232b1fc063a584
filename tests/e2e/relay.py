# SPDX-License-Identifier: Apache-2.0
"""A relay between an MQTT client and the gateway: passes whole packets on, counts what is unanswered, and breaks
connections at chosen packets."""

import socket
import threading

from wire import PUBACK, PUBCOMP, PUBLISH

TO_GATEWAY, TO_CLIENT = 0, 1


def packet_in(data):
    """The size of the first packet; None while it is not whole."""
    size = shift = 0
    for at in range(1, min(len(data), 5)):
        size |= (data[at] & 0x7F) << shift
        shift += 7
        if data[at] < 0x80:
            return at + 1 + size if len(data) >= at + 1 + size else None
    return None


class Relay:
    """cuts: (direction, packet type, n) one after the other: the n-th such packet since the one before is not passed
    on, and its connection is closed on both sides. unanswered_max: most PUBLISH of QoS 1 and 2 that were under way
    at once, by direction; gateway: its port, which may change; an MQTT 5 PUBREC of 0x80 and above does not occur here."""

    def __init__(self, port, cuts=()):
        self.gateway = port
        self.cuts = list(cuts)
        self.seen = 0
        self.unanswered_max = [0, 0]
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self.listener.close()

    def _accept(self):
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            try:
                links = (client, socket.create_connection(("127.0.0.1", self.gateway)))
            except OSError:  # the gateway is not there
                client.close()
                continue
            for link in links:
                link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            unanswered = (set(), set())
            for direction in (TO_GATEWAY, TO_CLIENT):
                threading.Thread(target=self._carry, args=(links, unanswered, direction), daemon=True).start()

    def _carry(self, links, unanswered, direction):
        source, target = links[direction], links[1 - direction]
        data = bytearray()
        try:
            while True:
                piece = source.recv(1 << 16)
                if not piece:
                    break
                data += piece
                while (size := packet_in(data)) is not None:
                    one = bytes(data[:size])
                    del data[:size]
                    if self._is_cut(one, unanswered, direction):
                        return
                    target.sendall(one)
        except OSError:
            pass
        finally:
            for link in links:
                try:
                    link.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def _is_cut(self, one, unanswered, direction):
        kind, qos = one[0] >> 4, one[0] >> 1 & 3
        with self.lock:
            if kind == PUBLISH and qos:
                head = 1
                while one[head] >= 0x80:
                    head += 1
                at = head + 3 + int.from_bytes(one[head + 1:head + 3], "big")
                unanswered[direction].add(one[at:at + 2])
                self.unanswered_max[direction] = max(self.unanswered_max[direction], len(unanswered[direction]))
            elif kind in (PUBACK, PUBCOMP):
                unanswered[1 - direction].discard(one[2:4])
            if not self.cuts or self.cuts[0][:2] != (direction, kind):
                return False
            self.seen += 1
            if self.seen < self.cuts[0][2]:
                return False
            self.cuts.pop(0)
            self.seen = 0
            return True
