# SPDX-License-Identifier: Apache-2.0
"""AMQP 1.0 by hand, for what a well-behaved client library would never send."""
import socket
import struct

AMQP, SASL = b"AMQP\x00\x01\x00\x00", b"AMQP\x03\x01\x00\x00"
OPEN, BEGIN, ATTACH, FLOW, TRANSFER, DISPOSITION, DETACH, END, CLOSE = range(0x10, 0x19)
MECHANISMS, INIT, CHALLENGE, RESPONSE, OUTCOME = range(0x40, 0x45)


ACCEPTED, REJECTED, RELEASED, MODIFIED = range(0x24, 0x28)


class Symbol(str):
    pass


class Raw(bytes):
    """Encoded already, or not at all."""


def ubyte(value):
    return Raw(bytes([0x50, value]))


class Ulong(int):
    pass


class Described:
    def __init__(self, code, value):
        self.code, self.value = code, value


def encode(value):
    if value is None:
        return b"\x40"
    if value is True or value is False:
        return b"\x41" if value else b"\x42"
    if isinstance(value, Ulong):
        return b"\x80" + struct.pack(">Q", value)
    if isinstance(value, int):
        return b"\x70" + struct.pack(">I", value)
    if isinstance(value, Symbol):
        return b"\xb3" + struct.pack(">I", len(value)) + value.encode()
    if isinstance(value, str):
        return b"\xb1" + struct.pack(">I", len(value.encode())) + value.encode()
    if isinstance(value, Raw):
        return bytes(value)
    if isinstance(value, bytes):
        return b"\xb0" + struct.pack(">I", len(value)) + value
    if isinstance(value, Described):
        return b"\x00\x53" + bytes([value.code]) + encode(value.value)
    if isinstance(value, dict):
        items = b"".join(encode(key) + encode(item) for key, item in value.items())
        return b"\xd1" + struct.pack(">II", len(items) + 4, 2 * len(value)) + items
    items = b"".join(encode(item) for item in value)
    return b"\xd0" + struct.pack(">II", len(items) + 4, len(value)) + items


def decode(data, at=0):
    """A value and where it ends; numbers as int, lists as list, maps as dict, described ones as Described."""
    code = data[at]
    at += 1
    if code == 0x00:
        descriptor, at = decode(data, at)
        value, at = decode(data, at)
        return Described(descriptor, value), at
    if code in (0x40, 0x41, 0x42, 0x43, 0x44, 0x45):
        return {0x40: None, 0x41: True, 0x42: False, 0x43: 0, 0x44: 0, 0x45: []}[code], at
    if code >> 4 in (5, 6, 7, 8, 9):
        width = 1 << ((code >> 4) - 5)
        return int.from_bytes(data[at:at + width], "big"), at + width
    width = 1 if code >> 4 in (0xa, 0xc, 0xe) else 4
    size = int.from_bytes(data[at:at + width], "big")
    at += width
    content, at = data[at:at + size], at + size
    if code >> 4 in (0xa, 0xb):
        return (content if code & 0xf == 0 else content.decode()), at
    count, inner, items = int.from_bytes(content[:width], "big"), width, []
    if code >> 4 in (0xe, 0xf):
        return content, at  # arrays are not looked into
    for _ in range(count):
        item, inner = decode(content, inner)
        items.append(item)
    return (items if code & 0xf == 0 else dict(zip(items[::2], items[1::2]))), at


def frame(code, fields, payload=b"", channel=0, kind=0):
    body = encode(Described(code, fields)) + payload
    return struct.pack(">IBBH", 8 + len(body), 2, kind, channel) + body


class Wire:
    """A connection: header() and frames go out as they are; expect() waits for a frame of a kind and gives its bytes."""

    def __init__(self, port, seconds=10):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.settimeout(seconds)
        self.received = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def take(self, size):
        while len(self.received) < size:
            piece = self.socket.recv(65536)
            if not piece:
                raise EOFError
            self.received += piece
        taken, self.received = self.received[:size], self.received[size:]
        return taken

    def expect_bytes(self, data):
        assert self.take(len(data)) == data

    def next_frame(self):
        size, = struct.unpack(">I", self.take(4))
        return self.take(size - 4)[4:]

    def expect(self, code):
        while True:
            body = self.next_frame()
            if not body:
                continue  # keeps alive
            assert body[:2] == b"\x00\x53", body
            if body[2] == code:
                return body[3:]

    def until_end(self):
        """Everything that comes until the other side closes."""
        try:
            while True:
                piece = self.socket.recv(65536)
                if not piece:
                    return self.received
                self.received += piece
        except ConnectionResetError:
            return self.received

    def header(self, header=AMQP):
        self.send(header)
        self.expect_bytes(header)

    def open(self, container="wire"):
        self.header()
        self.send(frame(OPEN, [container]) + frame(BEGIN, [None, 0, 1000, 1000]))
        self.expect(OPEN)
        self.expect(BEGIN)
        return self

    def attach(self, name, handle, address, receiver=False, **more):
        source = Described(0x28, [address if receiver else None])
        target = Described(0x29, [None if receiver else address, more.get("durable")])
        fields = [name, handle, receiver, more.get("snd"), more.get("rcv"), source, target]
        if not receiver:
            fields += [more.get("unsettled"), None, 0]
        self.send(frame(ATTACH, fields))
        return self.expect(ATTACH)


def take_uint(data, at):
    if data[at] == 0x43:
        return 0, at + 1
    if data[at] == 0x52:
        return data[at + 1], at + 2
    if data[at] == 0x70:
        return struct.unpack_from(">I", data, at + 1)[0], at + 5
    assert data[at] == 0x40, data[at]
    return None, at + 1


def disposition(body):
    """first, last and the code of the outcome, of what expect(DISPOSITION) gave."""
    at = (3 if body[0] == 0xc0 else 9) + 1  # behind the role
    first, at = take_uint(body, at)
    last, at = take_uint(body, at)
    outcome = body.find(b"\x00\x53", at)
    return first, first if last is None else last, body[outcome + 2] if outcome >= 0 else None


# A message, and where links of the queue q lead.
ONE = b"\x00\x53\x75\xa0\x01x"
TO = [Described(0x28, [None]), Described(0x29, ["q"]), None, None, 0]
OF = [Described(0x28, ["q"]), Described(0x29, [None])]


def sends(wire, handle, delivery, channel):
    wire.send(frame(TRANSFER, [handle, delivery, b"%d" % delivery, 0], ONE, channel=channel))
    assert disposition(wire.expect(DISPOSITION)) == (delivery, delivery, 0x24)
