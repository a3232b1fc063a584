# SPDX-License-Identifier: Apache-2.0
"""The few names over which all connections of a campaign meet, who they say they are, and what they have been given to settle."""
import base64
import collections
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))

QUEUES = ["q0", "q1", "q2"]
GROUPS = ["g0", "g1", "mqtt", "amqp"]
TOPICS = ["a", "a/b", "a/b/c", "b", "b/", "/"]
FILTERS = ["a", "a/#", "a/+", "+/b", "#", "b", "+/+/#"]
CLIENTS = ["c0", "c1", *(f"c{i}" for i in range(30))]
BODIES = [b"", b"x", b"{\"n\":1}", b"y" * 200, b"z" * 5000, b"\xff\xfe"]
SELECTORS = ["a = 1", "priority > 3 OR b IS NULL", "color LIKE 'r%'", "not a selector ("]
PASSWORDS = {"owner": "o", "anna": "a", "bert": "b"}
WITNESS, WITNESS_PASSWORD = "witness", "w"
GRANTS = ["publish,consume topic:a/#", "publish,consume queue:q*", "consume topic:#", "publish,consume topic:#", "manage queue:q0"]


class House:
    """What the connections share. users: there are some, so that everybody has to say who it is."""

    def __init__(self, users):
        self.users = users
        self.receipts = collections.deque([b"1.0.6.0.1"], 200)  # shown to anybody, settled by anybody
        self.connections = collections.deque([b"1"], 50)        # that somebody may end: never the witness's

    def credentials(self, draw):
        """User and password, mostly right ones; None: nobody is asked."""
        if not self.users:
            return None
        user = draw.choice(["owner", "owner", "anna", "anna", "bert"])
        return user, PASSWORDS[user] if draw.random() < 0.9 else "wrong"

    def basic(self, draw):
        """The header line, with its end."""
        who = self.credentials(draw)
        if who is None:
            return b""
        return b"Authorization: Basic " + base64.b64encode(":".join(who).encode()) + b"\r\n"
