#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""mqtt_vectors.py against a polylogd of its own ($POLYLOGD)."""

import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "e2e"))
from gateway import Gateway  # noqa: E402

gateway = Gateway()
vectors = [sys.executable, os.path.join(HERE, "mqtt_vectors.py"), "127.0.0.1", str(gateway.mqtt_port), *sys.argv[1:]]
code = subprocess.call(vectors)
ended = gateway.stop()
if ended != 0:
    sys.stderr.write(gateway.stderr())
sys.exit(code or ended)
