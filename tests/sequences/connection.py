# SPDX-License-Identifier: Apache-2.0
"""One connection of a campaign: never waits, writes in pieces or many frames at once, and remembers what it has written."""
import collections
import socket
import struct

FRAMES_REMEMBERED = 25
HEARD_BYTES_MAX = 200_000


class Connection:
    """speaker: decides what is said (first() and more(heard), both bytes); port: what it speaks to."""

    def __init__(self, name, port, speaker, draw, reads_little=False):
        self.name, self.speaker, self.draw = name, speaker, draw
        self.said = collections.deque(maxlen=FRAMES_REMEMBERED)
        self.heard = bytearray()
        self.waiting = collections.deque()  # pieces to be written, one a turn
        self.ended = self.only_listens = False
        self.reads_little = reads_little
        self.socket = socket.socket()
        if reads_little:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.say(speaker.first())

    def say(self, data):
        if not data or self.only_listens:
            return
        self.said.append(data)
        if self.draw.random() < 0.2:
            while data:
                size = self.draw.choice([1, 2, 3, 7, 40, 400])
                self.waiting.append(data[:size])
                data = data[size:]
        else:
            self.waiting.append(data)

    def speak(self):
        """The next turn of its own."""
        if len(self.waiting) > 200:
            return
        heard, self.heard = bytes(self.heard), bytearray()
        self.say(b"".join(self.speaker.more(heard if i == 0 else b"") for i in range(self.draw.choice([1, 1, 1, 3, 20]))))

    def pump(self):
        """What the socket takes and gives just now."""
        if self.ended:
            return
        try:
            while self.waiting:
                sent = self.socket.send(self.waiting[0])
                if sent < len(self.waiting[0]):
                    self.waiting[0] = self.waiting[0][sent:]
                    break
                self.waiting.popleft()
                if self.draw.random() < 0.3:
                    break
        except BlockingIOError:
            pass
        except OSError:
            self.ended = True
        if len(self.heard) > HEARD_BYTES_MAX or (self.reads_little and self.draw.random() < 0.95):
            return
        try:
            data = self.socket.recv(1 << 16)
            self.ended = self.ended or not data
            self.heard += data
        except BlockingIOError:
            pass
        except OSError:
            self.ended = True

    def half_close(self):
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.ended = True
        self.only_listens = True
        self.waiting.clear()
        self.said.append(b"(half closed)")

    def reset(self):
        """Gone in the middle of what it says, without a FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.said.append(b"(reset)")
        self.close()

    def close(self):
        self.ended = True
        self.socket.close()
