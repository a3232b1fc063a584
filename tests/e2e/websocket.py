# SPDX-License-Identifier: Apache-2.0
"""WebSocket byte by byte, for tests that decide how each frame looks and see what comes back."""
import base64
import os
import socket
import struct
import zlib

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
RSV1, RSV2, RSV3 = 0x40, 0x20, 0x10
MASK = b"\x37\xfa\x21\x3d"


def masked(payload, mask=MASK):
    if not payload:
        return b""
    wide = mask * (len(payload) // 4 + 1)
    size = len(payload)
    return (int.from_bytes(payload, "big") ^ int.from_bytes(wide[:size], "big")).to_bytes(size, "big")


def frame(kind, payload=b"", last=True, bits=0, mask=MASK, size_as=None):
    """A client's frame. size_as: 7, 16 or 64 bits instead of the shortest."""
    size = len(payload)
    form = size_as or (7 if size <= 125 else 16 if size <= 65535 else 64)
    head = bytes([(0x80 if last else 0) | bits | kind])
    bit = 0x80 if mask is not None else 0
    if form == 7:
        head += bytes([bit | size])
    elif form == 16:
        head += bytes([bit | 126]) + struct.pack(">H", size)
    else:
        head += bytes([bit | 127]) + struct.pack(">Q", size)
    return head + (mask + masked(payload, mask) if mask is not None else payload)


def close_payload(code, reason=b""):
    return struct.pack(">H", code) + reason


def deflated(payload, level=9, window=15):
    packer = zlib.compressobj(level, zlib.DEFLATED, -window)
    return (packer.compress(payload) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


def inflated(payload, window=15):
    return zlib.decompressobj(-window).decompress(payload + b"\0\0\xff\xff")


class Refused(Exception):
    def __init__(self, status, head):
        super().__init__(f"{status}: {head}")
        self.status, self.head = status, head


class Socket:
    """Socket(port, path): connected and upgraded, or Refused. extra: header lines."""

    def __init__(self, port, path, protocols=None, extensions=None, extra=(), timeout=20, tls=None, behind=b"",
                 version="13", host="127.0.0.1", receive_buffer=None):
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self.input = b""
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET {path} HTTP/1.1", f"Host: {host}:{port}", "Upgrade: websocket", "Connection: keep-alive, Upgrade",
                 f"Sec-WebSocket-Key: {key}", f"Sec-WebSocket-Version: {version}"]
        if protocols:
            lines.append(f"Sec-WebSocket-Protocol: {protocols}")
        if extensions:
            lines.append(f"Sec-WebSocket-Extensions: {extensions}")
        self.socket.sendall("\r\n".join([*lines, *extra, "", ""]).encode() + behind)
        while b"\r\n\r\n" not in self.input:
            self._more()
        head, _, self.input = self.input.partition(b"\r\n\r\n")
        first, *rest = head.decode().split("\r\n")
        status = int(first.split()[1])
        self.headers = {name.strip().lower(): value.strip() for name, value in (line.split(":", 1) for line in rest)}
        if status != 101:
            self.socket.close()
            raise Refused(status, self.headers)
        self.protocol = self.headers.get("sec-websocket-protocol")
        self.extensions = self.headers.get("sec-websocket-extensions")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def _more(self):
        data = self.socket.recv(1 << 20)
        if not data:
            raise EOFError("the gateway has closed")
        self.input += data

    def send(self, data, piece=None):
        if piece is None:
            self.socket.sendall(data)
        else:
            for at in range(0, len(data), piece):
                self.socket.sendall(data[at:at + piece])

    def send_frame(self, *arguments, **named):
        self.send(frame(*arguments, **named))

    def receive(self):
        """The next frame: (kind, payload, last, bits). None: end of stream."""
        try:
            while True:
                data = self.input
                if len(data) >= 2:
                    size, at = data[1] & 0x7F, 2
                    assert not data[1] & 0x80, "a server masks"
                    need = 2 if size == 126 else 8 if size == 127 else 0
                    if len(data) >= at + need:
                        if need:
                            size = int.from_bytes(data[at:at + need], "big")
                        at += need
                        if len(data) >= at + size:
                            self.input = data[at + size:]
                            return data[0] & 0x0F, data[at:at + size], bool(data[0] & 0x80), data[0] & 0x70
                self._more()
        except (EOFError, ConnectionError):
            return None

    def receive_message(self):
        kind, payload, last, bits = self.receive()
        assert last, "a fragment"
        return kind, inflated(payload) if bits & RSV1 else payload

    def expect_close(self, *codes):
        """Reads on until the Close frame, whose code must be one of codes; answers nothing; then the stream ends."""
        while True:
            got = self.receive()
            assert got is not None, f"no Close frame, expected {codes}"
            if got[0] == CLOSE:
                break
        code = struct.unpack(">H", got[1][:2])[0] if got[1] else 1005
        assert code in codes, f"closed with {code}, not {codes}"
        assert self.receive() is None, "something behind the Close frame"
