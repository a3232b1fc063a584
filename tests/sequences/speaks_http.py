# SPDX-License-Identifier: Apache-2.0
"""HTTP in unusual order: pipelined, chunked and abandoned requests to the queues, groups, users and connections of the others."""
import json
import re
from urllib.parse import quote

from names import BODIES, CLIENTS, FILTERS, GRANTS, GROUPS, PASSWORDS, QUEUES, SELECTORS, TOPICS

HANDLER = re.compile(rb'"(?:handler|receipt)":"([^"]+)"')
CONNECTION = re.compile(rb'"id":"?([^",{}]+)"?,[^{}]*"client_id":"c\d"')
V1 = "/v1/default"


class Http:
    port = "http"

    def __init__(self, draw, house):
        self.draw, self.house = draw, house
        self.delayed = [1]
        self.turns = [(getattr(self, name), weight) for name, weight in (
            ("publish", 25), ("take", 20), ("settle", 20), ("make", 8), ("change", 6), ("remove", 3), ("look", 8), ("events", 3),
            ("user", 4), ("connection", 4), ("seek", 5), ("redrive", 4), ("route", 3), ("broken", 1.5))]

    def first(self):
        return self.more(b"")

    def more(self, heard):
        self.house.receipts.extend(HANDLER.findall(heard)[:20])
        self.house.connections.extend(CONNECTION.findall(heard))
        turn, = self.draw.choices([turn for turn, _ in self.turns], [weight for _, weight in self.turns])
        return turn()

    def request(self, method, path, body=None):
        draw = self.draw
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n".encode() + self.house.basic(draw)
        if draw.random() < 0.03:
            head += draw.choice([b"Connection: close\r\n", b"Expect: 100-continue\r\n", b"Accept-Encoding: gzip\r\n", b"X: " + b"y" * 5000 + b"\r\n"])
        if body is None:
            return head + b"\r\n"
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head += b"Content-Type: application/json\r\n"
        if draw.random() < 0.7:
            return head + b"Content-Length: %d\r\n\r\n" % len(data) + data
        chunks = b""
        while data:
            size = draw.choice([1, 5, 100, 10000])
            chunks += b"%x\r\n" % len(data[:size]) + data[:size] + b"\r\n"
            data = data[size:]
        return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"

    def queue(self):
        return f"{V1}/queues/" + self.draw.choice([*QUEUES, *QUEUES, *QUEUES, "none"])

    def group(self):
        return self.queue() + "/groups/" + self.draw.choice(GROUPS)

    def publish(self):
        draw = self.draw
        message = {"body": draw.choice(["x", "y" * 2000, 1, {"a": 1}, None])}
        for name, values in (("delay_ms", [1, 500, 100000]), ("labels", [["red"], ["1", "2", "3"]]), ("key", ["k"]), ("dedup_id", ["d", "e"]),
                             ("expiry_ms", [1, 1000]), ("priority", [1, 9])):
            if draw.random() < 0.15:
                message[name] = draw.choice(values)
        target = {"topic": draw.choice(TOPICS)} if draw.random() < 0.4 else {"queue": draw.choice(QUEUES)}
        if "topic" in target and draw.random() < 0.2:
            target["retain"] = True
        return self.request("POST", f"{V1}/publish", {**target, "messages": [message] * draw.choice([1, 1, 3, 20])})

    def take(self):
        query = {"time_wait": self.draw.choice([1, 3, 20]), "max_msgs": self.draw.choice([1, 10, 100]), "ack_wait": self.draw.choice([15, 30, 1])}
        if self.draw.random() < 0.2:
            query[self.draw.choice(["dead", "label", "consumer"])] = self.draw.choice(["true", "red"])
        if self.draw.random() < 0.1:
            query["selector"] = quote(self.draw.choice(SELECTORS))
        tail = self.draw.choice(["messages", "messages", "messages", "deadletters"])
        path = self.group() + f"/{tail}?" + "&".join(f"{name}={value}" for name, value in query.items())
        return self.request("GET", path.replace("/v1/", self.draw.choice(["/v1/", "/v1/", "/v1.0/", "/v2/"])))

    def settle(self):
        draw = self.draw
        receipts = [draw.choice(self.house.receipts).decode(errors="replace") for _ in range(draw.choice([1, 1, 5, 30]))]
        if draw.random() < 0.2:
            body = {"message": [{"handler": one, "status": draw.choice(["success", "fail"])} for one in receipts]}
            return self.request("POST", self.group().replace("/v1/", "/v1.0/") + "/ack", body)
        verb = draw.choice(["ack", "ack", "nack", "reject", "leases"])
        body = {"receipts": receipts}
        if verb == "leases":
            return self.request("PUT", self.group() + "/leases", {**body, "seconds": draw.choice([1, 30])})
        return self.request("POST", self.group() + f"/{verb}", {**body, **({"delay_ms": draw.choice([0, 100])} if verb == "nack" else {})})

    def make(self):
        draw = self.draw
        if draw.random() < 0.5:
            more = draw.choice([{}, {}, {"broadcast": True}, {"selector": draw.choice(SELECTORS)}, {"ordered": True}])
            return self.request("POST", self.queue() + "/groups", {"groups": [{"name": draw.choice(GROUPS), **more}]})
        fields = {"name": draw.choice(QUEUES)}
        for name, values in (("partitions", [1, 3, 16]), ("type", ["standard", "fifo", "stream"]), ("redrive_policy", ["enable"]),
                             ("max_consume_count", [1, 3]), ("dedup_ms", [0, 1000]), ("max_records", [10, 1000]),
                             ("durability", ["sync", "interval"]), ("overflow", ["drop_oldest", "refuse"])):
            if draw.random() < 0.3:
                fields[name] = draw.choice(values)
        return self.request("POST", f"{V1}/queues", fields)

    def change(self):
        if self.draw.random() < 0.5:
            return self.request("PATCH", self.group(), self.draw.choice([{"selector": self.draw.choice(SELECTORS)}, {"selector": None},
                                                                      {"consumer_idle_ms": 1}]))
        return self.request("PATCH", self.queue(), self.draw.choice([{"retention_ms": 1000}, {"max_records": 5}, {"max_records": 0},
                                                                  {"dedup_ms": 100}, {"overflow": "refuse"}, {"protect_bytes": 1000},
                                                                  {"max_consume_count": 1, "redrive_policy": "enable"}]))

    def remove(self):
        kind = self.draw.random()
        if kind < 0.3:
            return self.request("POST", self.queue() + "/purge", {} if self.draw.random() < 0.5 else None)
        if kind < 0.5:
            return self.request("DELETE", self.queue() + f"/delayed/{self.draw.choice(['1', '2', '99', 'x'])}")
        return self.request("DELETE", self.queue() if kind < 0.75 else self.group())

    def look(self):
        draw = self.draw
        return self.request("GET", draw.choice([
            "/metrics", "/healthz", "/readyz", f"{V1}/queues", self.queue(), self.queue() + "/groups?include_deadletter=true",
            self.queue() + "/records?partition=0&offset=0&limit=50", self.queue() + "/records?selector=" + quote(draw.choice(SELECTORS)),
            f"{V1}/retained?filter=%23", self.group() + "/explain?partition=0&offset=0", f"{V1}/queues/mqtt/records?time=0", "/openapi.json"]))

    def events(self):
        where = self.draw.choice(["topic=" + quote(self.draw.choice(FILTERS), safe=""), "queue=" + self.draw.choice(QUEUES),
                                  f"queue={self.draw.choice(QUEUES)}&group={self.draw.choice(GROUPS)}"])
        return self.request("GET", f"{V1}/events?{where}" + self.draw.choice(["", "&from=earliest", "&from=latest", "&from=0"]))

    def user(self):
        """Only of those whom the witness does not need; the password stays, or the others would get no further."""
        draw = self.draw
        if not self.house.users:
            return self.request("GET", f"{V1}/users")
        name = draw.choice(["anna", "bert"])
        path = f"{V1}/users/{name}"
        return draw.choice([
            lambda: self.request("PUT", path, {"password": PASSWORDS[name]}), lambda: self.request("DELETE", path),
            lambda: self.request("PUT", path + "/grants", {"grants": draw.sample(GRANTS, draw.randrange(4))}),
            lambda: self.request("POST", path + "/keys"), lambda: self.request("POST", f"{V1}/tokens", {"expires_in": 1}),
            lambda: self.request("GET", f"{V1}/users")])()

    def connection(self):
        if self.draw.random() < 0.5:
            return self.request("GET", f"{V1}/connections?client_id={self.draw.choice(CLIENTS)}")
        return self.request("DELETE", f"{V1}/connections/" + quote(self.draw.choice(self.house.connections).decode(errors="replace")))

    def seek(self):
        return self.request("POST", self.group() + "/seek", self.draw.choice([
            {"to": "earliest"}, {"to": "latest"}, {"time": 0}, {"partition": 0, "offset": 3}, {"partition": 9, "offset": 2 ** 53}, {}]))

    def redrive(self):
        if self.draw.random() < 0.2:
            return self.request("GET", self.group() + "/redrive")
        return self.request("POST", self.group() + "/redrive", self.draw.choice([{"all": True}, {"ids": [0, 1, 2]}, {"label": "red"}]))

    def route(self):
        path = f"{V1}/routes/" + quote(self.draw.choice(["a/#", "a/b/#", "b"]), safe="")
        return self.request(*self.draw.choice([("PUT", path, {"queue": self.draw.choice(QUEUES)}), ("DELETE", path), ("GET", path), ("GET", f"{V1}/routes")]))

    def broken(self):
        return self.draw.choice([
            b"GET", b"GET / HTTP/1.1\r\n", b"POST /v1/default/publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{",
            b"POST /v1/default/publish HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"\r\n\r\n",
            b"POST /v1/default/publish HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
            b"HEAD /healthz HTTP/1.0\r\n\r\n", b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", self.draw.choice(BODIES)])
