#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""libmosquitto in C: $MOSQUITTO_CLIENT, built from mosquitto_client.c."""

import os
import subprocess

from gateway import run

CLIENT = os.environ.get("MOSQUITTO_CLIENT", "build/release/mosquitto_client")


def test_all_versions_and_guarantees(gateway):
    subprocess.run([CLIENT, str(gateway.mqtt_port)], check=True, timeout=100)


run(test_all_versions_and_guarantees)
