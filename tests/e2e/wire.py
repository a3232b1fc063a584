# SPDX-License-Identifier: Apache-2.0
"""MQTT byte by byte, for tests that must decide when each packet goes out and see what comes back."""

import socket
import struct
import time

import standstill

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = range(1, 8)
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT, AUTH = range(8, 16)

PAYLOAD_FORMAT, MESSAGE_EXPIRY, CONTENT_TYPE, RESPONSE_TOPIC, CORRELATION = 1, 2, 3, 8, 9
SUBSCRIPTION_ID, SESSION_EXPIRY, ASSIGNED_ID, SERVER_KEEP_ALIVE, AUTH_METHOD = 11, 17, 18, 19, 21
AUTH_DATA, REQUEST_PROBLEM, WILL_DELAY, REQUEST_RESPONSE = 22, 23, 24, 25
RESPONSE_INFO, SERVER_REFERENCE, REASON_STRING, RECEIVE_MAXIMUM = 26, 28, 31, 33
ALIAS_MAXIMUM, ALIAS, MAXIMUM_QOS, RETAIN_AVAILABLE, USER, MAXIMUM_PACKET = 34, 35, 36, 37, 38, 39
WILDCARDS, SUBSCRIPTION_IDS, SHARED = 40, 41, 42
BYTES = {PAYLOAD_FORMAT, REQUEST_PROBLEM, REQUEST_RESPONSE, MAXIMUM_QOS, RETAIN_AVAILABLE, WILDCARDS, SUBSCRIPTION_IDS, SHARED}
SHORTS = {SERVER_KEEP_ALIVE, RECEIVE_MAXIMUM, ALIAS_MAXIMUM, ALIAS}
LONGS = {MESSAGE_EXPIRY, SESSION_EXPIRY, WILL_DELAY, MAXIMUM_PACKET}


def varint(value):
    out = bytearray()
    while True:
        value, byte = value >> 7, value & 0x7F
        out.append(byte | (0x80 if value else 0))
        if not value:
            return bytes(out)


def take_varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def text(value):
    value = value.encode() if isinstance(value, str) else value
    return struct.pack(">H", len(value)) + value


def packet(kind, flags, body):
    return bytes([kind << 4 | flags]) + varint(len(body)) + body


def properties(pairs):
    """From a list of (identifier, value); a user property's value is a pair."""
    out = b""
    for name, value in pairs:
        out += bytes([name])
        if name in BYTES:
            out += bytes([value])
        elif name in SHORTS:
            out += struct.pack(">H", value)
        elif name in LONGS:
            out += struct.pack(">I", value)
        elif name == SUBSCRIPTION_ID:
            out += varint(value)
        elif name == USER:
            out += text(value[0]) + text(value[1])
        else:
            out += text(value)
    return varint(len(out)) + out


def take_text(data, at):
    size = struct.unpack_from(">H", data, at)[0]
    return data[at + 2:at + 2 + size], at + 2 + size


def take_properties(data, at):
    size, at = take_varint(data, at)
    end, pairs = at + size, []
    while at < end:
        name = data[at]
        at += 1
        if name in BYTES:
            value, at = data[at], at + 1
        elif name in SHORTS:
            value, at = struct.unpack_from(">H", data, at)[0], at + 2
        elif name in LONGS:
            value, at = struct.unpack_from(">I", data, at)[0], at + 4
        elif name == SUBSCRIPTION_ID:
            value, at = take_varint(data, at)
        elif name == USER:
            key, at = take_text(data, at)
            value, at = take_text(data, at)
            value = (key.decode(), value.decode())
        else:
            value, at = take_text(data, at)
        pairs.append((name, value))
    return pairs, end


def publish(version, topic, payload, qos=0, packet_id=1, retain=False, duplicate=False, props=()):
    body = text(topic) + (struct.pack(">H", packet_id) if qos else b"")
    body += properties(props) if version == 5 else b""
    flags = qos << 1 | (1 if retain else 0) | (8 if duplicate else 0)
    return packet(PUBLISH, flags, body + payload)


# The reason codes that a server may send in each packet of MQTT 5.
CODES = {
    CONNACK: {0, *range(0x80, 0x8B), 0x8C, 0x90, 0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F},
    PUBACK: {0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99},
    PUBREC: {0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99},
    PUBREL: {0, 0x92}, PUBCOMP: {0, 0x92},
    SUBACK: {0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2},
    UNSUBACK: {0, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91},
    DISCONNECT: {0, *range(0x80, 0x84), 0x87, 0x89, 0x8B, *range(0x8D, 0x91), *range(0x93, 0xA3)},
    AUTH: {0, 0x18},
}


class Packet:
    """What a broker sent, which must be what a server may send. reasons: of SUBACK and UNSUBACK; reason: of the others
    that have one."""

    def __init__(self, version, header, body):
        self._read(version, header, body)
        if self.type == PUBLISH:
            assert self.qos < 3 and (self.qos or not self.flags & 8) and self.id != 0, self
            assert "+" not in self.topic and "#" not in self.topic, self
        else:
            assert self.flags == (2 if self.type == PUBREL else 0), self
        if self.type == CONNACK:
            assert body[0] & 0xFE == 0 and not (self.reason and body[0]), self
        if version == 5 and self.type in CODES:
            assert set(getattr(self, "reasons", [self.reason])) <= CODES[self.type], self

    def _read(self, version, header, body):
        self.type, self.flags, self.body = header >> 4, header & 15, body
        self.qos = self.flags >> 1 & 3 if self.type == PUBLISH else 0
        self.id, self.reason, self.properties, at = None, 0, [], 0
        five = version == 5
        if self.type == PUBLISH:
            topic, at = take_text(body, 0)
            self.topic = topic.decode()
            if self.qos:
                self.id, at = struct.unpack_from(">H", body, at)[0], at + 2
            if five:
                self.properties, at = take_properties(body, at)
            self.payload = body[at:]
        elif self.type == CONNACK:
            self.reason = body[1]
            if five:
                self.properties, at = take_properties(body, 2)
        elif self.type in (PUBACK, PUBREC, PUBREL, PUBCOMP):
            self.id = struct.unpack_from(">H", body)[0]
            self.reason = body[2] if len(body) > 2 else 0
            if len(body) > 3:
                self.properties, at = take_properties(body, 3)
        elif self.type in (SUBACK, UNSUBACK):
            self.id, at = struct.unpack_from(">H", body)[0], 2
            if five:
                self.properties, at = take_properties(body, at)
            self.reasons = list(body[at:])
        elif self.type in (DISCONNECT, AUTH):
            self.reason = body[0] if body else 0
            if len(body) > 1:
                self.properties, at = take_properties(body, 1)

    def get(self, name):
        """The value of its first property of that name, or None."""
        return next((value for key, value in self.properties if key == name), None)

    def users(self):
        return [value for key, value in self.properties if key == USER]

    def __repr__(self):
        return "<packet %d flags %x reason %02x %r>" % (
            self.type, self.flags, self.reason, self.body[:40])


class Client:
    def __init__(self, port, version=5, timeout=10, tls=None, receive_buffer=None):
        self.version = version
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self.input = bytearray()
        self.aside = []  # packets that came before the one that was waited for
        self.connack = None
        self.packet_max = 1 << 32  # what it has said it takes

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def receive(self):
        """The next packet; None when the broker has closed; TimeoutError when nothing comes while the machine goes on."""
        if self.aside:
            return self.aside.pop(0)
        return self._receive()

    def _receive(self):
        began = time.monotonic()
        while True:
            found = self._take()
            if found is not None:
                return found
            try:
                data = self.socket.recv(1 << 20)
            except socket.timeout:
                if standstill.spent(began) < self.socket.gettimeout():
                    continue
                raise TimeoutError("no packet came") from None
            except OSError:
                return None
            if not data:
                return None
            self.input += data

    def _take(self):
        at = 1
        while at < len(self.input) and at < 5 and self.input[at] >= 0x80:
            at += 1
        if at >= len(self.input):
            return None
        size, at = take_varint(self.input, 1)
        assert at + size <= self.packet_max, "a packet of %d bytes" % (at + size)
        if len(self.input) < at + size:
            return None
        header, body = self.input[0], bytes(self.input[at:at + size])
        del self.input[:at + size]
        return Packet(self.version, header, body)

    def expect(self, kind):
        """Deliveries that come before an answer wait for their turn."""
        found = self.receive() if kind == PUBLISH else self._receive()
        while kind != PUBLISH and found is not None and found.type == PUBLISH:
            self.aside.append(found)
            found = self._receive()
        assert found is not None, "closed instead of packet %d" % kind
        assert found.type == kind, "%r instead of packet %d" % (found, kind)
        return found

    def expect_silence(self, seconds):
        before = self.socket.gettimeout()
        self.socket.settimeout(seconds)
        try:
            found = self.receive()
        except TimeoutError:
            return
        finally:
            self.socket.settimeout(before)
        raise AssertionError("%r instead of nothing" % found)

    def expect_end(self):
        """The connection closes; the reason it gave, or None."""
        found = self.receive()
        if found is None:
            return None
        assert found.type in (DISCONNECT, CONNACK), found
        assert self.receive() is None
        return found.reason

    def connect(self, client_id="", clean=True, keep_alive=60, props=(), user=None, password=None,
                will=None, accept=True):
        """will: topic, payload, qos, retain[, properties]."""
        self.packet_max = dict(props).get(MAXIMUM_PACKET, self.packet_max)
        flags = (2 if clean else 0) | (0x80 if user is not None else 0)
        flags |= 0x40 if password is not None else 0
        body = text(client_id)
        if will is not None:
            flags |= 4 | will[2] << 3 | (0x20 if will[3] else 0)
            if self.version == 5:
                body += properties(will[4] if len(will) > 4 else ())
            body += text(will[0]) + text(will[1])
        body += text(user) if user is not None else b""
        body += text(password) if password is not None else b""
        name = text("MQIsdp") if self.version == 3 else text("MQTT")
        head = name + bytes([self.version, flags]) + struct.pack(">H", keep_alive)
        head += properties(props) if self.version == 5 else b""
        self.send(packet(CONNECT, 0, head + body))
        if accept:
            self.connack = self.expect(CONNACK)
            assert self.connack.reason == 0, self.connack
        return self

    def subscribe(self, *filters, options=None, packet_id=1, props=()):
        """Filters with one options byte (the QoS by default 0), or (filter, options) pairs."""
        body = struct.pack(">H", packet_id) + (properties(props) if self.version == 5 else b"")
        for item in filters:
            name, option = item if isinstance(item, tuple) else (item, options or 0)
            body += text(name) + bytes([option])
        self.send(packet(SUBSCRIBE, 2, body))
        answer = self.expect(SUBACK)
        assert answer.id == packet_id
        return answer.reasons

    def unsubscribe(self, *filters, packet_id=1):
        body = struct.pack(">H", packet_id) + (b"\0" if self.version == 5 else b"")
        self.send(packet(UNSUBSCRIBE, 2, body + b"".join(text(name) for name in filters)))
        return self.expect(UNSUBACK).reasons

    def publish(self, topic, payload, qos=0, packet_id=1, **options):
        """Returns when it is acknowledged: the reason."""
        payload = payload.encode() if isinstance(payload, str) else payload
        self.send(publish(self.version, topic, payload, qos, packet_id, **options))
        if qos == 0:
            return 0
        answer = self.expect(PUBACK if qos == 1 else PUBREC)
        assert answer.id == packet_id
        if qos == 2 and answer.reason < 0x80:
            self.ack(PUBREL, packet_id)
            assert self.expect(PUBCOMP).id == packet_id
        return answer.reason

    def ack(self, kind, packet_id, reason=0):
        body = struct.pack(">H", packet_id) + (bytes([reason]) if reason else b"")
        self.send(packet(kind, 2 if kind == PUBREL else 0, body))

    def delivery(self):
        """The next PUBLISH, acknowledged as its QoS wants it."""
        found = self.expect(PUBLISH)
        if found.qos == 1:
            self.ack(PUBACK, found.id)
        elif found.qos == 2:
            self.ack(PUBREC, found.id)
            assert self.expect(PUBREL).id == found.id
            self.ack(PUBCOMP, found.id)
        return found

    def ping(self):
        self.send(packet(PINGREQ, 0, b""))
        self.expect(PINGRESP)

    def disconnect(self, reason=0, props=()):
        body = bytes([reason]) + properties(props) if reason or props else b""
        self.send(packet(DISCONNECT, 0, body))
