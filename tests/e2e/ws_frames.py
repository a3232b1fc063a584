#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The frame layer of WebSocket against /echo, case by case as conformance suites have them: framing, pings, reserved
bits and kinds, fragmentation, UTF-8, closing, sizes, compression; and the handshake."""
import os
import zlib

from gateway import Gateway, until
import gateway
from websocket import (BINARY, CLOSE, CONTINUATION, PING, PONG, RSV1, RSV2, RSV3, TEXT, Refused, Socket, close_payload,
                       deflated, frame)

PROTOCOL, UNACCEPTABLE, NOT_TEXT, TOO_LARGE = 1002, 1003, 1007, 1009


class Echo:
    """Each test has a gateway with /echo; each case a connection of its own."""

    def __init__(self):
        self.gateway = Gateway(None, "http.echo=true")

    def open(self, **named):
        return Socket(self.gateway.http_port, "/echo", **named)

    def same(self, kind, payload, piece=None):
        with self.open() as link:
            link.send(frame(kind, payload), piece)
            assert link.receive_message() == (kind, payload), (kind, len(payload), piece)

    def closes(self, data, *codes, before=(), **named):
        with self.open(**named) as link:
            link.send(data)
            for expected in before:
                assert link.receive_message() == expected, expected
            link.expect_close(*codes)


def framing(echo):
    for size in (0, 1, 125, 126, 127, 128, 65535, 65536, 300000):
        echo.same(TEXT, b"*" * size)
        echo.same(BINARY, os.urandom(size))
    echo.same(BINARY, os.urandom(65536), 997)
    echo.same(BINARY, os.urandom(200), 1)
    for size_as, payload in ((16, b"x"), (64, b"x"), (64, b"x" * 126)):  # sizes that are not in the shortest form
        echo.closes(frame(TEXT, payload, size_as=size_as), PROTOCOL)
    echo.closes(b"\x82\xff" + b"\xff" * 8 + b"1234", PROTOCOL)
    echo.closes(b"\x82\xff" + (1 << 40).to_bytes(8, "big") + b"1234", TOO_LARGE)
    echo.closes(frame(TEXT, b"no mask", mask=None), PROTOCOL)
    # Frames that come in the same segment as the handshake, and many at once.
    with echo.open(behind=frame(TEXT, b"eager")) as link:
        assert link.receive_message() == (TEXT, b"eager")
        link.send(b"".join(frame(BINARY, str(i).encode() * i) for i in range(500)))
        for i in range(500):
            assert link.receive_message() == (BINARY, str(i).encode() * i), i


def pings(echo):
    with echo.open() as link:
        for payload in (b"", b"Hello", b"\0\xff\xfe", os.urandom(125)):
            link.send_frame(PING, payload)
            assert link.receive()[:2] == (PONG, payload)
        for i in range(10):
            link.send(frame(PING, b"%d" % i), 1)
        assert [link.receive()[1] for _ in range(10)] == [b"%d" % i for i in range(10)]
        link.send_frame(PONG, b"nobody asked")
        link.send_frame(PING, b"and still")
        assert link.receive()[:2] == (PONG, b"and still")
    echo.closes(frame(PING, os.urandom(126)), PROTOCOL)


def reserved(echo):
    for bits in (RSV1, RSV2, RSV3, RSV1 | RSV2 | RSV3):
        for kind in (TEXT, BINARY, PING, CLOSE):
            echo.closes(frame(kind, b"", bits=bits), PROTOCOL)
    for kind in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        echo.closes(frame(TEXT, b"first") + frame(kind, b""), PROTOCOL, before=[(TEXT, b"first")])


def fragments(echo):
    for kind in (PING, PONG, CLOSE):
        echo.closes(frame(kind, b"", last=False) + frame(CONTINUATION, b""), PROTOCOL)
    whole = frame(TEXT, b"one", last=False) + frame(PING, b"in between") + frame(CONTINUATION, b" two", last=False) + \
        frame(CONTINUATION, b"", last=False) + frame(CONTINUATION, b" three")
    for piece in (None, 1):
        with echo.open() as link:
            link.send(whole, piece)
            assert link.receive()[:2] == (PONG, b"in between")
            assert link.receive_message() == (TEXT, b"one two three")
    with echo.open() as link:
        link.send(frame(BINARY, b"", last=False) + frame(CONTINUATION, b""))
        assert link.receive_message() == (BINARY, b"")
    echo.closes(frame(CONTINUATION, b"of nothing"), PROTOCOL)
    echo.closes(frame(CONTINUATION, b"of nothing", last=False), PROTOCOL)
    echo.closes(frame(TEXT, b"a", last=False) + frame(TEXT, b"b"), PROTOCOL)
    echo.closes(frame(TEXT, b"a") + frame(CONTINUATION, b"b"), PROTOCOL, before=[(TEXT, b"a")])


def texts(echo):
    good = ["", "Hello-µ@ßöäüàá-UTF-8!!", "κόσμε", "\0", "\x7f", "\u0080", "\u07ff", "\u0800", "\uffff", "\U00010000",
            "\U0010ffff", "\ud7ff", "\ue000", "\ufffd", "\ufdd0\ufffe"]
    for text in good:
        echo.same(TEXT, text.encode())
    bad = [b"\xcebaa\xf4\x90\x80\x80", b"\xed\xa0\x80edited", b"\xf8\x88\x80\x80\x80", b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf",
           b"\xff", b"\xfe", b"\x80", b"\xce", b"\xe1\xbd", b"\xf0\x90\x80", b"\xf4\x90\x80\x80", b"\xed\xbf\xbf", b"a\xc3"]
    for text in bad:
        echo.closes(frame(TEXT, text), NOT_TEXT)
        echo.closes(frame(TEXT, text[:1], last=False) + frame(CONTINUATION, text[1:]), NOT_TEXT)
        echo.same(BINARY, text)
    text = "Hello-µ@ßöäüàá-κόσμε-\U0010ffff".encode()
    with echo.open() as link:  # cut within characters
        link.send(b"".join(frame(TEXT if i == 0 else CONTINUATION, text[i:i + 1], last=i == len(text) - 1) for i in range(len(text))))
        assert link.receive_message() == (TEXT, text)


def closing(echo):
    for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000, 4999):
        echo.closes(frame(CLOSE, close_payload(code, "schön".encode())), code)
    for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535):
        echo.closes(frame(CLOSE, close_payload(code)), PROTOCOL)
    echo.closes(frame(CLOSE), 1005)
    echo.closes(frame(CLOSE, b"x"), PROTOCOL)
    echo.closes(frame(CLOSE, close_payload(1000, b"*" * 123)), 1000)
    echo.closes(frame(CLOSE, close_payload(1000, b"\xce")), PROTOCOL)
    echo.closes(frame(CLOSE, close_payload(1000) + b"*" * 124), PROTOCOL)
    echo.closes(frame(TEXT, b"x" * 200000) + frame(CLOSE, close_payload(1000)), 1000, before=[(TEXT, b"x" * 200000)])
    for behind in (TEXT, PING, CLOSE):
        echo.closes(frame(CLOSE, close_payload(1000)) + frame(behind, b""), 1000)
    # Unfinished messages and lost connections leave nothing behind.
    for data in (b"", b"\x81", frame(TEXT, b"a", last=False), frame(TEXT, b"x" * 5000)[:-1]):
        with echo.open() as link:
            link.send(data)
    assert until(lambda: 'connections{protocol="websocket"} 0' in echo.gateway.call("GET", "/metrics")[1])


def sizes(echo):
    payload = os.urandom(4 << 20)
    echo.same(BINARY, payload)
    with echo.open() as link:
        link.send(frame(BINARY, payload[:1 << 16], last=False))
        for at in range(1 << 16, len(payload), 1 << 16):
            link.send(frame(CONTINUATION, payload[at:at + (1 << 16)], last=at + (1 << 16) >= len(payload)))
        assert link.receive_message() == (BINARY, payload)
    limit = 16 << 20
    echo.closes(frame(BINARY, b"", last=False) + b"\x00\xff" + (limit + 1).to_bytes(8, "big") + b"1234", TOO_LARGE)
    with echo.open() as link:
        half = b"x" * (limit // 2)
        link.send(frame(TEXT, half, last=False) + frame(CONTINUATION, half, last=False))
        link.send_frame(PING, b"that was legal")
        assert link.receive()[:2] == (PONG, b"that was legal")
        link.send_frame(CONTINUATION, b"y")
        link.expect_close(TOO_LARGE)


def compression(echo):
    offers = {
        "permessage-deflate": None,
        "permessage-deflate; client_max_window_bits": None,
        'permessage-deflate; client_max_window_bits="10"; client_no_context_takeover; server_no_context_takeover': None,
        "permessage-deflate; server_max_window_bits=9": "server_max_window_bits=9",
        "x-webkit-deflate-frame, permessage-deflate; unknown, permessage-deflate; server_max_window_bits=10": "server_max_window_bits=10",
    }
    payload = b'{"temperature": 21.5, "unit": "C"}' * 100
    for offer, answer in offers.items():
        with echo.open(extensions=offer) as link:
            assert link.extensions.startswith("permessage-deflate") and "server_no_context_takeover" in link.extensions, offer
            assert (answer is None) == ("server_max_window_bits" not in link.extensions) and (answer or "") in link.extensions
            link.send_frame(TEXT, payload)  # what is agreed on is not a duty
            kind, packed, last, bits = link.receive()
            assert kind == TEXT and last
            small = "=9" in offer or "=10" in offer
            assert bits == (0 if small else RSV1) and (small or len(packed) < len(payload) // 5)
            for size in (0, 1, 100, 1000):
                data = payload[:size]
                link.send_frame(TEXT, deflated(data), bits=RSV1)
                assert link.receive_message() == (TEXT, data), (offer, size)
            packed = deflated(payload)
            link.send(frame(BINARY, packed[:7], last=False, bits=RSV1) + frame(PING, b"") +
                      frame(CONTINUATION, packed[7:20], last=False) + frame(CONTINUATION, packed[20:]))
            assert link.receive()[0] == PONG
            assert link.receive_message() == (BINARY, payload)
    for offer in ("permessage-deflate; server_max_window_bits=7", "permessage-deflate; server_max_window_bits",
                  "permessage-deflate; client_no_context_takeover=1", "deflate",
                  "permessage-deflate; client_max_window_bits=16", "permessage-deflate; client_max_window_bits; client_max_window_bits"):
        with echo.open(extensions=offer) as link:
            assert link.extensions is None, offer
            link.send_frame(TEXT, b"", bits=RSV1)
            link.expect_close(PROTOCOL)
    agreed = {"extensions": "permessage-deflate"}
    # Blocks that call themselves the last, stored blocks, several blocks.
    last = zlib.compressobj(9, zlib.DEFLATED, -15)
    for packed, plain in ((last.compress(b"Hello") + last.flush() + b"\0", b"Hello"),
                          (b"\x00\x05\x00\xfa\xffHello\x00", b"Hello"), (b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00", b"Hello")):
        with echo.open(**agreed) as link:
            link.send_frame(TEXT, packed, bits=RSV1)
            assert link.receive_message() == (TEXT, plain)
    random = os.urandom(100000)  # does not get smaller
    with echo.open(**agreed) as link:
        link.send_frame(BINARY, random)
        assert link.receive() == (BINARY, random, True, 0)
    echo.closes(frame(TEXT, b"\xff\xff\xff", bits=RSV1), NOT_TEXT, **agreed)
    echo.closes(frame(TEXT, deflated(b"\xc3"), bits=RSV1), NOT_TEXT, **agreed)
    echo.closes(frame(TEXT, b"a", last=False) + frame(CONTINUATION, b"b", bits=RSV1), PROTOCOL, **agreed)
    echo.closes(frame(PING, b"a", bits=RSV1), PROTOCOL, **agreed)
    echo.closes(frame(BINARY, deflated(b"\0" * ((16 << 20) + 1)), bits=RSV1), TOO_LARGE, **agreed)  # a bomb


def handshakes(echo):
    def refused(status, path="/ws", **named):
        try:
            Socket(echo.gateway.http_port, path, **named).socket.close()
        except Refused as refusal:
            assert refusal.status == status, refusal
            return refusal.head
        raise AssertionError(f"{path} was accepted: {named}")

    assert echo.gateway.call("GET", "/")[0] == 404
    for path in ("/ws", "/mqtt", "/amqp", "/"):
        with Socket(echo.gateway.http_port, path, protocols="chat, mqtt") as link:
            assert link.protocol == "mqtt" and link.extensions is None
        with Socket(echo.gateway.http_port, path, protocols="chat", extra=["Sec-WebSocket-Protocol: mqttv3.1, mqtt"],
                    extensions="permessage-deflate") as link:
            assert link.protocol == "mqttv3.1" and link.extensions is None
    for path in ("/amqp", "/"):
        with Socket(echo.gateway.http_port, path, protocols="amqp") as link:
            link.send_frame(BINARY, b"AMQP\x03\x01\0\0")  # SASL begins with the same header
            got = b""
            while len(got) < 8:
                got += link.receive()[1]
            assert got.startswith(b"AMQP\x03\x01\0\0"), got
    refused(400)
    refused(400, protocols="chat")
    refused(400, protocols="MQTT")
    assert refused(426, protocols="mqtt", version="8")["sec-websocket-version"] == "13"
    refused(404, path="/nowhere", protocols="mqtt")
    refused(403, protocols="mqtt", extra=["Origin: https://evil.example"])
    refused(403, protocols="mqtt", host="evil.example")
    with Socket(echo.gateway.http_port, "/ws", protocols="mqtt",
                extra=[f"Origin: http://127.0.0.1:{echo.gateway.http_port}"]) as link:
        assert link.protocol == "mqtt"
    port = echo.gateway.http_port
    head = f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nSec-WebSocket-Protocol: mqtt\r\n"
    for lines, status in (("", 426), ("Upgrade: websocket\r\n", 426), ("Connection: upgrade\r\n", 426),
                          ("Connection: upgrade\r\nUpgrade: h2c\r\n", 426),
                          ("Connection: upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: abc\r\n", 400),
                          ("Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n", 400)):
        answer = echo.gateway.raw((head + lines + "Connection: close\r\n\r\n").encode())
        assert answer.startswith(f"HTTP/1.1 {status}".encode()), (lines, answer[:100])
    # The example of RFC 6455, 1.3.
    answer = echo.gateway.raw((head + "Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                               "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").encode(),
                              lambda received: b"\r\n\r\n" in received)
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer, answer
    plain = Gateway()
    try:
        Socket(plain.http_port, "/echo").socket.close()
        raise AssertionError("/echo exists without http.echo")
    except Refused as refusal:
        assert refusal.status == 404
    assert plain.stop() == 0


def an_end(echo):
    """A gateway that stops says so."""
    links = [echo.open() for _ in range(3)]
    assert echo.gateway.stop() == 0
    for link in links:
        link.receive()
        link.socket.close()


def with_echo(test):
    def run():
        echo = Echo()
        test(echo)
        assert echo.gateway.stop() == 0
    run.__name__ = test.__name__
    return run


gateway.run(*map(with_echo, (framing, pings, reserved, fragments, texts, closing, sizes, compression, handshakes, an_end)))
