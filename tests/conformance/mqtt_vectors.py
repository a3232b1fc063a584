#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the MQTT vectors against a broker: mqtt_vectors.py HOST PORT [-k SUBSTRING] [-d FILE] [-t SECONDS]

The broker must let anyone connect, publish and subscribe. What differs and is listed in the differences
file is counted apart; anything else that differs fails the run, and so does an entry of the list that a run of all
vectors has no use for: it would hide a change. mqtt_vectors.py --check needs no broker: it reads all vectors and
the list."""

import argparse
import fnmatch
import glob
import json
import os
import re
import socket
import struct
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = 2, 3, 4, 5, 6, 7
SUBACK, UNSUBACK, PINGRESP, DISCONNECT = 9, 11, 13, 14
TOKEN = re.compile(r"\s*('[^']*'|[rv]\d+|[skmH]\d+|L\d+|i\d+|(?:[0-9A-Fa-f]{2})+)")


class Difference(Exception):
    """What the broker did instead, in the words of the differences file:
    goodbye XX      it closed as expected, but gave this reason where the vector has none
    silent          it closed as expected, but without the reason
    reason XX->YY   another reason
    accepted: HEX   it answered what it should refuse; open: it did neither
    closed: ...     it refused what it should accept; missing: HEX: it did not answer
    other: ..."""


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


def encode(payload, packet_ids):
    """The bytes of a payload; packet_ids replaces identifiers that the broker chose otherwise."""
    out, at = b"", 0
    while at < len(payload.rstrip()):
        match = TOKEN.match(payload, at)
        if match is None:
            raise ValueError("cannot read %r at %d" % (payload, at))
        token, at = match.group(1), match.end()
        if token[0] == "'":
            out += token[1:-1].encode()
        elif token[0] in "rv":
            out += varint(int(token[1:]))
        elif token[0] == "m":
            number = int(token[1:])
            out += struct.pack(">H", packet_ids.get(number, number))
        elif token[0] in "skH":
            out += struct.pack(">H", int(token[1:]))
        elif token[0] == "L":
            out += struct.pack(">I", int(token[1:]))
        elif token[0] == "i":
            out += bytes([int(token[1:])])
        else:
            out += bytes.fromhex(token)
    return out


class Packet:
    """A packet that a broker sent, as far as a comparison needs it."""

    def __init__(self, frame, version):
        self.frame = frame
        self.type, self.flags = frame[0] >> 4, frame[0] & 0x0F
        _, at = take_varint(frame, 1)
        body = frame[at:]
        self.id = self.reason = None
        self.properties = self.rest = b""
        if self.type == PUBLISH:
            size = struct.unpack_from(">H", body)[0]
            self.topic, at = body[2:2 + size], 2 + size
            if self.flags & 6:
                self.id, at = struct.unpack_from(">H", body, at)[0], at + 2
            self.rest = self._take_properties(body, at, version)
        elif self.type == CONNACK:
            self.flags, self.reason = body[0], body[1]
            self.rest = self._take_properties(body, 2, version)
        elif self.type in (PUBACK, PUBREC, PUBREL, PUBCOMP):
            self.id = struct.unpack_from(">H", body)[0]
            self.reason = body[2] if len(body) > 2 else 0
            self.rest = self._take_properties(body, 3, version)
        elif self.type in (SUBACK, UNSUBACK):
            self.id = struct.unpack_from(">H", body)[0]
            self.rest = self._take_properties(body, 2, version)
        elif self.type == DISCONNECT:
            self.reason = body[0] if body else 0
            self.rest = self._take_properties(body, 1, version)

    def _take_properties(self, body, at, version):
        if version != 5 or at >= len(body):
            return body[at:]
        size, at = take_varint(body, at)
        self.properties = body[at:at + size]
        return body[at + size:]

    def is_refusal(self):
        return self.type in (CONNACK, DISCONNECT) and self.reason and (
            self.reason >= 0x80 or self.type == CONNACK)


class Client:
    def __init__(self, options, version):
        self.version = version
        self.timeout = options.timeout
        self.socket = socket.create_connection((options.host, options.port), timeout=options.timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.input = b""

    def close(self):
        self.socket.close()

    def send(self, data):
        try:
            self.socket.sendall(data)
        except OSError:
            pass  # closed already: the next read tells

    def _frame(self):
        if len(self.input) < 2:
            return None
        at = 1
        while at < min(5, len(self.input)) and self.input[at] >= 0x80:
            at += 1
        if at >= len(self.input):
            return None
        size, at = take_varint(self.input, 1)
        if len(self.input) < at + size:
            return None
        frame, self.input = self.input[:at + size], self.input[at + size:]
        return frame

    def receive(self):
        """The next packet; None when the broker has closed; TimeoutError when nothing comes."""
        end = time.monotonic() + self.timeout
        while True:
            frame = self._frame()
            if frame is not None:
                return Packet(frame, self.version)
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.socket.settimeout(left)
            try:
                data = self.socket.recv(65536)
            except socket.timeout:
                raise TimeoutError from None
            except OSError:
                return None
            if not data:
                return None
            self.input += data


def connect(client, client_id):
    name = client_id.encode()
    properties = b"\0" if client.version == 5 else b""
    protocol = b"\0\6MQIsdp" if client.version == 3 else b"\0\4MQTT"
    body = protocol + bytes([client.version, 2]) + b"\0\x3c" + properties
    body += struct.pack(">H", len(name)) + name
    client.send(b"\x10" + varint(len(body)) + body)
    answer = client.receive()
    if answer is None or answer.type != CONNACK or answer.reason != 0:
        raise Difference("closed: a plain CONNECT was not accepted")


def publish(options, topic, qos, payload):
    """What the vectors call external_publish: another client, and it waits for its acknowledgement."""
    client = Client(options, 4)
    try:
        connect(client, "vectors-helper")
        body = struct.pack(">H", len(topic)) + topic.encode() + (b"\0\1" if qos else b"")
        body += payload.encode()
        client.send(bytes([0x30 | qos << 1]) + varint(len(body)) + body)
        for kind in {0: (), 1: (PUBACK,), 2: (PUBREC, PUBCOMP)}[qos]:
            answer = client.receive()
            if answer is None or answer.type != kind:
                raise Difference("closed: the helper's publish was not acknowledged")
            if kind == PUBREC:
                client.send(b"\x62\2\0\1")
        client.send(b"\xe0\0")
    finally:
        client.close()


def compare(expected, got, packet_ids):
    """Properties of an answer, and the identifier of a delivery, are the broker's choice."""
    if expected.type != got.type:
        raise Difference("other: %s instead of %s" % (got.frame.hex(), expected.frame.hex()))
    if expected.type == PUBLISH:
        if expected.id is not None:
            packet_ids[expected.id] = got.id
        if (expected.flags, expected.topic, expected.properties, expected.rest) != (
                got.flags, got.topic, got.properties, got.rest):
            raise Difference("other: %s instead of %s" % (got.frame.hex(), expected.frame.hex()))
        return
    if expected.reason != got.reason:
        raise Difference("reason %02X->%02X" % (expected.reason, got.reason))
    if expected.id is not None and packet_ids.get(expected.id, expected.id) != got.id:
        raise Difference("other: %s instead of %s" % (got.frame.hex(), expected.frame.hex()))
    if expected.flags != got.flags or expected.rest != got.rest:
        raise Difference("other: %s instead of %s" % (got.frame.hex(), expected.frame.hex()))


def expect(client, payload, packet_ids):
    expected = Packet(encode(payload, {}), client.version)
    try:
        got = client.receive()
    except TimeoutError:
        what = "open" if expected.is_refusal() else "missing: %s" % expected.frame.hex()
        raise Difference(what) from None
    if got is None:
        raise Difference("silent" if expected.is_refusal() else "closed")
    if got.is_refusal() and not expected.is_refusal():
        raise Difference("closed: reason %02X" % got.reason)
    if expected.is_refusal() and not got.is_refusal():
        raise Difference("accepted: %s" % got.frame.hex())
    compare(expected, got, packet_ids)


def expect_end(client):
    said = None
    while True:
        try:
            got = client.receive()
        except TimeoutError:
            raise Difference("open") from None
        if got is None:
            break
        if not got.is_refusal():
            raise Difference("accepted: %s" % got.frame.hex())
        if said is not None:
            raise Difference("other: %s before the end" % got.frame.hex())
        said = got.reason
    if said is not None:
        raise Difference("goodbye %02X" % said)


def expect_open(client):
    client.send(b"\xc0\0")
    try:
        got = client.receive()
    except TimeoutError:
        raise Difference("missing: PINGRESP") from None
    if got is None or got.is_refusal():
        raise Difference("closed" if got is None else "closed: reason %02X" % got.reason)
    if got.type != PINGRESP:
        raise Difference("other: %s instead of a PINGRESP" % got.frame.hex())


def run(options, vector):
    client = Client(options, vector["version"])
    packet_ids = {}
    try:
        if vector["connect"]:
            connect(client, vector["name"])
        for message in vector["messages"]:
            if message["type"] == "send":
                client.send(encode(message["payload"], packet_ids))
            elif message["type"] == "recv":
                expect(client, message["payload"], packet_ids)
            else:
                publish(options, message["topic"], message["qos"], message["payload"])
        if vector["closes"]:
            expect_end(client)
        else:
            expect_open(client)
    finally:
        client.close()


def read_vectors(folder):
    for path in sorted(glob.glob(os.path.join(folder, "*.json"))):
        with open(path, encoding="utf-8") as file:
            groups = json.load(file)
        for group in groups:
            for test in group["tests"]:
                yield {
                    "group": " ".join(group["group"].split()),
                    "name": test["name"].strip(),
                    "version": test.get("ver", group["ver"]),
                    "connect": test.get("connect", group.get("connect", True)),
                    "closes": test.get("expect_disconnect", True),
                    "messages": test["msgs"],
                }


def read_differences(path):
    """Lines of: what | group | name | why. The first three are patterns with * and ?."""
    entries = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.strip() and not line.startswith("#"):
                what, group, name, why = (part.strip() for part in line.split("|", 3))
                entries.append({"what": what, "group": group, "name": name, "why": why})
    return entries


def matches(pattern, text):
    """fnmatch without its brackets, which are part of many names."""
    return fnmatch.fnmatchcase(text, pattern.replace("[", "[[]"))


def is_listed(entries, vector, what):
    for entry in entries:
        if (matches(entry["what"], what) and matches(entry["group"], vector["group"])
                and matches(entry["name"], vector["name"])):
            entry["used"] = True
            return True
    return False


def check(vectors, entries):
    """That all payloads can be read, and that no entry of the list is about nothing."""
    for vector in vectors:
        for message in vector["messages"]:
            if message["type"] != "external_publish":
                encode(message["payload"], {})
    idle = [entry for entry in entries if not any(
        matches(entry["group"], v["group"]) and matches(entry["name"], v["name"]) for v in vectors)]
    for entry in idle:
        print("no vector is %(group)s | %(name)s" % entry)
    print("%d vectors, %d listed differences" % (len(vectors), len(entries)))
    return 1 if idle or not vectors else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("host", nargs="?")
    parser.add_argument("port", nargs="?", type=int)
    parser.add_argument("-k", dest="only", default="", help="vectors whose group or name has this")
    parser.add_argument("-d", dest="differences", default=os.path.join(HERE, "mqtt_differences.txt"))
    parser.add_argument("-t", dest="timeout", type=float, default=10.0, help="seconds to wait")
    parser.add_argument("-v", dest="verbose", action="store_true", help="name listed differences")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    vectors = list(read_vectors(os.path.join(HERE, "vectors")))
    entries = read_differences(options.differences)
    if options.check:
        return check(vectors, entries)
    if options.port is None:
        parser.error("host and port are needed")

    passed = listed = failed = 0
    for vector in vectors:
        title = "%(group)s / %(name)s" % vector
        if options.only not in title:
            continue
        try:
            run(options, vector)
            passed += 1
        except (Difference, TimeoutError, IndexError, struct.error) as difference:
            what = str(difference) or type(difference).__name__
            if is_listed(entries, vector, what):
                listed += 1
                if options.verbose:
                    print("listed %s: %s" % (title, what))
            else:
                failed += 1
                print("FAILED %s: %s" % (title, what))
    print("%d passed, %d differ as listed, %d failed" % (passed, listed, failed))
    idle = [entry for entry in entries if not options.only and "used" not in entry]
    for entry in idle:
        print("nothing differs as %(what)s | %(group)s | %(name)s" % entry)
    return 1 if failed or idle or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
