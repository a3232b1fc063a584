# SPDX-License-Identifier: Apache-2.0
"""HTTP itself: framing, limits, floods, slow peers, foreign pages, TLS - and that one bad peer harms nobody else."""
import json
import os
import select
import socket
import ssl
import subprocess
import tempfile
import threading
import time

import standstill
from gateway import Gateway, exchange, run, until

HEAD = b" HTTP/1.1\r\nHost: localhost\r\n"
DMS = "/v1.0/default"


def status_of(answer):
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else None


def a_head(received):
    return b"\r\n\r\n" in received


def ask(gateway, data):
    return status_of(gateway.raw(data, a_head))


def cpu_seconds(gateway):
    with open(f"/proc/{gateway.pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def malformed(gateway):
    get = b"GET /healthz"
    for data in (b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"GET /healthz\r\n\r\n", b"\r\n\r\n", get + b" HTTP/1.1\r\n\r\n",
                 get + HEAD + b"Host: two\r\n\r\n", get + HEAD + b"No colon\r\n\r\n", get + HEAD + b": empty\r\n\r\n",
                 get + HEAD + b"Space : x\r\n\r\n", get + HEAD + b"A: b\r\n folded\r\n\r\n", get + HEAD + b"A: \x01\r\n\r\n",
                 b"GET  /healthz" + HEAD + b"\r\n", b"GET healthz" + HEAD + b"\r\n", b"GET /a%zz/b" + HEAD + b"\r\n",
                 b"GET /v1/default/users/%ff" + HEAD + b"\r\n", b"GET /v1/default/users/%00" + HEAD + b"\r\n",
                 b"GET /healthz?a=%2" + HEAD + b"\r\n", b"GET /healthz?" + b"a=b&" * 40 + HEAD + b"\r\n"):
        code = ask(gateway, data)
        assert code == 400 or (b"%zz" in data and code == 404), (code, data)
    assert ask(gateway, b"GET /healthz HTTP/2.0\r\nHost: x\r\n\r\n") == 505
    assert ask(gateway, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n") == 200
    assert ask(gateway, b"BREW /healthz" + HEAD + b"\r\n") == 501
    assert ask(gateway, b"GET http://localhost/healthz" + HEAD + b"\r\n") == 200
    answer = gateway.raw(b"GET /healthz HTTP/1.0\r\n\r\n")
    assert status_of(answer) == 200 and b"Connection: close" in answer
    answer = gateway.raw(b"HEAD /healthz" + HEAD + b"Connection: close\r\n\r\n")
    assert status_of(answer) == 200 and answer.endswith(b"\r\n\r\n") and b"Content-Length: 15" in answer, answer


def framing(gateway):
    post = b"POST /v1/default/publish" + HEAD
    for header in (b"Content-Length: x\r\n", b"Content-Length: -1\r\n", b"Content-Length: 1\r\nContent-Length: 2\r\n",
                   b"Content-Length: 1, 1\r\n", b"Content-Length: +1\r\n", b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                   b"Content-Length: 99999999999999999999\r\n"):
        assert ask(gateway, post + header + b"\r\nhello") == 400, header
    assert ask(gateway, post + b"Transfer-Encoding: gzip\r\n\r\n") == 501
    assert ask(gateway, post + b"Content-Length: 12582913\r\n\r\n") == 413
    body = json.dumps({"topic": "chunked", "messages": [{"body": "x" * 100}]}).encode()
    chunked = post + b"Transfer-Encoding: chunked\r\n\r\n"
    for size in (1, 7, len(body)):
        pieces = b"".join(b"%x;ext=1\r\n%s\r\n" % (len(body[i:i + size]), body[i:i + size]) for i in range(0, len(body), size))
        assert ask(gateway, chunked + pieces + b"0\r\nTrailer: x\r\n\r\n") == 201, size
    for bad in (b"x\r\n", b"5\r\nabcdefgh\r\n", b"\r\n", b"5 5\nhello"):
        assert ask(gateway, chunked + bad) == 400, bad
    assert ask(gateway, chunked + b"fffffffffffff\r\n") == 413
    assert ask(gateway, chunked + b"0;" + b"x" * 5000) == 413
    with socket.create_connection(("127.0.0.1", gateway.http_port)) as link:
        link.sendall(post + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
        assert link.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        link.sendall(body)
        assert link.recv(1000).startswith(b"HTTP/1.1 201")


def pipelined(gateway):
    """Requests in one segment are answered in order, also behind one that has to wait, and cost no idle turning."""
    gateway.call("POST", f"{DMS}/queues", {"name": "q"})
    gateway.call("POST", "/v1/default/queues/q/groups", {"groups": [{"name": "g"}]})
    body = json.dumps({"queue": "q", "messages": [{"body": "hello"}]}).encode()
    post = b"POST /v1/default/publish" + HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    get = b"GET /healthz" + HEAD + b"\r\n"
    last = b"GET /healthz" + HEAD + b"Connection: close\r\n\r\n"
    received = gateway.raw((post + get) * 50 + last)
    assert received.count(b"HTTP/1.1 201") == 50 and received.count(b"HTTP/1.1 200") == 51, received[:300]
    assert len(gateway.call("GET", "/v1/default/queues/q/records?limit=1000")[1]["records"]) == 50
    # A large answer that is late, and more behind it.
    gateway.call("POST", "/v1/default/publish", {"queue": "q", "messages": [{"body": "y" * 800000}]})
    records = b"GET /v1/default/queues/q/records" + HEAD + b"\r\n"
    received = gateway.raw((records + get) * 5 + last)
    assert received.count(b"HTTP/1.1 200") == 11 and received.count(b"y" * 800000) == 5, len(received)
    gateway.call("POST", "/v1/default/queues", {"name": "empty"})
    gateway.call("POST", "/v1/default/queues/empty/groups", {"groups": [{"name": "g"}]})
    poll = b"GET /v1/default/queues/empty/groups/g/messages?time_wait=2" + HEAD + b"\r\n"
    before = cpu_seconds(gateway)
    received = gateway.raw(poll + get * 2000 + last)
    assert received.count(b"HTTP/1.1 200") == 2002, received.count(b"HTTP/1.1 200")
    assert cpu_seconds(gateway) - before < 1


def floods(gateway):
    get = b"GET /healthz" + HEAD
    assert ask(gateway, get + b"".join(b"X-%d: y\r\n" % i for i in range(101)) + b"\r\n") == 431
    assert ask(gateway, get + b"X: " + b"y" * 20000 + b"\r\n\r\n") == 431
    assert ask(gateway, b"GET /" + b"a" * 20000 + HEAD + b"\r\n") == 431
    assert ask(gateway, get + b"X: " + b"y" * 16000 + b"\r\n\r\n") == 200
    links = [socket.create_connection(("127.0.0.1", gateway.http_port)) for _ in range(500)]
    for link in links:
        link.sendall(b"GET /healthz HTTP/1.1\r\nHos")
    assert gateway.call("GET", "/healthz")[0] == 200
    for link in links:
        link.close()
    deep = {"messages": [{"body": "x"}]}
    gateway.call("POST", f"{DMS}/queues", {"name": "q"})
    for data in (b'{"messages":' + b"[" * 1000000, b'{"a":' * 200000, b'{"messages":[{"body":' + b"[" * 3000 + b"]" * 3000 + b"}]}"):
        assert gateway.call("POST", f"{DMS}/queues/q/messages", data)[0] == 400
    assert gateway.call("POST", f"{DMS}/queues/q/messages", deep)[0] == 201


def rss_kb(gateway):
    with open(f"/proc/{gateway.pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def large_bodies(gateway):
    """Bodies of legal size that are too much: too many values in one, too many at once."""
    many = b'{"topic":"t","messages":[' + b"[]," * 4000000 + b"[]]}"
    assert gateway.call("POST", "/v1/default/publish", many)[0] == 400
    text = {"topic": "t", "messages": [{"body": ",[{" * 300000}]}
    assert gateway.call("POST", "/v1/default/publish", text)[0] == 201
    head = b"POST /v1/default/publish" + HEAD + b"Content-Length: 12000000\r\n\r\n"
    links = []
    for _ in range(60):
        link = socket.create_connection(("127.0.0.1", gateway.http_port))
        link.sendall(head + b"x" * 100000)
        links.append(link)

    def refused():
        answered = select.select(links, [], [], 0)[0]
        return sum(link.recv(100, socket.MSG_PEEK).startswith(b"HTTP/1.1 503") for link in answered)
    assert until(lambda: refused() > 20), refused()
    time.sleep(0.5)
    assert refused() < 60, refused()
    assert gateway.call("GET", "/healthz")[0] == 200
    for link in links:
        link.close()
    assert until(lambda: gateway.call("POST", "/v1/default/publish", text)[0] == 201)
    assert rss_kb(gateway) < 600_000, rss_kb(gateway)


def unread_answers(gateway):
    """A peer that asks and never reads is held at a limit."""
    with socket.create_connection(("127.0.0.1", gateway.http_port)) as link:
        link.setblocking(False)
        request = (b"GET /openapi.json" + HEAD + b"\r\n") * 100
        sent = 0
        end = time.monotonic() + 5
        while time.monotonic() < end and sent < 50_000_000:
            try:
                sent += link.send(request)
            except BlockingIOError:
                time.sleep(0.05)
        assert rss_kb(gateway) < 300_000, rss_kb(gateway)
        assert gateway.call("GET", "/healthz")[0] == 200


def slow_peers(gateway):
    """A head must be complete within 10 s; who is slow is dropped, and nobody else notices."""
    started = time.monotonic()
    ends = {}

    def slowly(name, *pieces):
        with socket.create_connection(("127.0.0.1", gateway.http_port)) as link:
            link.settimeout(60)
            try:
                for piece in pieces:
                    link.sendall(piece)
                    time.sleep(1)
                while link.recv(1000):
                    pass
            except OSError:
                pass
        ends[name] = time.monotonic() - started

    threads = [threading.Thread(target=slowly, args=("silent",)),
               threading.Thread(target=slowly, args=("half", b"GET /healthz HTTP/1.1\r\n")),
               threading.Thread(target=slowly, args=("drip", b"GET /healthz" + HEAD, *[b"A: b\r\n"] * 20))]
    for thread in threads:
        thread.start()
    for _ in range(10):
        assert gateway.call("GET", "/healthz")[0] == 200
        time.sleep(0.5)
    for thread in threads:
        thread.join()
    assert 8 < ends["silent"] and 8 < ends["half"] and 8 < ends["drip"], ends
    lost = standstill.since(started)
    assert ends["silent"] < 14 + lost and ends["half"] < 14 + lost and ends["drip"] < 16 + lost, (ends, lost)
    metrics = gateway.call("GET", "/metrics")[1]
    assert 'polylog_refused_total{protocol="http",reason="timeout"} 0' not in metrics


def foreign(gateway):
    """Without users, pages and names of somebody else are kept out."""
    port = gateway.http_port
    for host in ("localhost", f"localhost:{port}", "127.0.0.1", "127.9.9.9:80", "[::1]", f"[::1]:{port}", "LOCALHOST"):
        assert gateway.call("GET", f"{DMS}/queues", headers={"Host": host})[0] == 200, host
    for host in ("example.com", "localhost.example.com", "127.0.0.1.example.com", "127.0.0.1x", "10.0.0.1", "::1", "[::2]",
                 "localhost:port", "localhost:123456", "0.0.0.0"):
        status, body = gateway.call("GET", f"{DMS}/queues", headers={"Host": host})
        assert status == 403 and body["code"] == 10240309, host
    own = {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"}
    assert gateway.call("GET", f"{DMS}/queues", headers=own)[0] == 200
    for origin in ("http://example.com", "null", "http://localhost:1", f"http://localhost:{port}.example.com", "https://ok.example"):
        assert gateway.call("GET", f"{DMS}/queues", headers={**own, "Origin": origin})[0] == 403, origin


def listed_origins():
    gateway = Gateway(None, "http.origins=https://ok.example, http://two.example:8080")
    for origin in ("https://ok.example", "http://two.example:8080"):
        link = gateway.connect()
        link.request("OPTIONS", f"{DMS}/queues", headers={"Origin": origin, "Access-Control-Request-Method": "POST"})
        answer = link.getresponse()
        assert answer.status == 204 and answer.headers["Access-Control-Allow-Origin"] == origin
        assert "POST" in answer.headers["Access-Control-Allow-Methods"]
        answer.read()
        link.request("GET", f"{DMS}/queues", headers={"Origin": origin})
        answer = link.getresponse()
        assert answer.status == 200 and answer.headers["Access-Control-Allow-Origin"] == origin
        link.close()
    assert gateway.call("GET", f"{DMS}/queues", headers={"Origin": "https://other.example"})[0] == 403
    assert gateway.stop() == 0


def certificate(directory, name):
    key, cert = os.path.join(directory, f"{name}.key"), os.path.join(directory, f"{name}.crt")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                    "-keyout", key, "-out", cert, "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost"],
                   check=True, stderr=subprocess.DEVNULL)
    return cert, key


def tls():
    with tempfile.TemporaryDirectory() as directory:
        cert, key = certificate(directory, "localhost")
        gateway = Gateway(None, f"tls.cert={cert}", f"tls.key={key}", "http.tls_port=0", "mqtt.tls_port=0")
        port = gateway.ports["https"]
        context = ssl.create_default_context(cafile=cert)
        context.set_alpn_protocols(["h2", "http/1.1"])

        def ask_tls(data):
            with socket.create_connection(("127.0.0.1", port)) as plain:
                with context.wrap_socket(plain, server_hostname="localhost") as link:
                    link.sendall(data)
                    received = b""
                    while piece := link.recv(65536):
                        received += piece
                    return received

        last = b"GET /healthz" + HEAD + b"Connection: close\r\n\r\n"
        assert status_of(ask_tls(last)) == 200
        body = json.dumps({"topic": "t", "messages": [{"body": "x" * 1000}] * 500}).encode()
        publish = b"POST /v1/default/publish" + HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
        received = ask_tls(publish * 3 + last)
        assert received.count(b"HTTP/1.1 201") == 3, received[:200]
        assert gateway.raw(b"", seconds=0.1) == b""
        with socket.create_connection(("127.0.0.1", port)) as plain:      # not TLS at all
            plain.sendall(last)
            plain.settimeout(2)
            try:
                assert not plain.recv(100).startswith(b"HTTP")
            except ConnectionResetError:
                pass
        half = socket.create_connection(("127.0.0.1", port))
        half.sendall(b"\x16\x03\x01\x02\x00\x01")
        assert status_of(ask_tls(last)) == 200
        half.close()
        assert gateway.stop() == 0


def stop_answers():
    """SIGTERM: who waits is answered, and the gateway ends soon."""
    gateway = Gateway()
    gateway.call("POST", "/v1/default/queues", {"name": "q"})
    gateway.call("POST", "/v1/default/queues/q/groups", {"groups": [{"name": "g"}]})
    answers = []
    idle = gateway.connect()
    assert exchange(idle, "GET", "/healthz")[0] == 200

    def wait():
        answers.append(gateway.call("GET", "/v1/default/queues/q/groups/g/messages?time_wait=60"))

    waiters = [threading.Thread(target=wait) for _ in range(5)]
    for waiter in waiters:
        waiter.start()
    time.sleep(0.5)
    started = time.monotonic()
    assert gateway.stop() == 0
    assert standstill.spent(started) < 10
    for waiter in waiters:
        waiter.join(5)
    assert len(answers) == 5 and all(status in (200, 503) for status, _ in answers), answers


run(malformed, framing, pipelined, floods, large_bodies, unread_answers, slow_peers, foreign, listed_origins, tls, stop_answers)
