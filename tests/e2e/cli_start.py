# SPDX-License-Identifier: Apache-2.0
"""Starting and stopping polylogd: what it refuses and why, what it tells, users made before anybody can connect."""
import os
import shutil
import signal
import socket
import subprocess
import tempfile

import gateway
from gateway import POLYLOG, POLYLOGD, Gateway


def refused(*arguments):
    """Starts it, which must fail by itself; returns what it said."""
    done = subprocess.run([POLYLOGD, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    assert done.stdout == "", done.stdout
    return done.stderr


class Directory:
    def __enter__(self):
        self.path = tempfile.mkdtemp(prefix="polylog-start-")
        return self.path

    def __exit__(self, *_):
        shutil.rmtree(self.path, ignore_errors=True)


def write(directory, name, text):
    path = os.path.join(directory, name)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def add_user(data, name, password):
    return subprocess.run([POLYLOG, "user", "add", name, "--data", data], input=password + "\n", capture_output=True,
                          text=True, timeout=60)


def mqtt_connect(port, user=None, password=None, host="127.0.0.1"):
    """The return code of CONNACK to an MQTT 3.1.1 CONNECT, or None when the connection just ends."""
    def text(value):
        return len(value).to_bytes(2, "big") + value.encode()
    flags = 0x02 | (0x80 if user else 0) | (0x40 if password else 0)
    body = text("MQTT") + bytes([4, flags, 0, 30]) + text("start") + (text(user) if user else b"")
    body += text(password) if password else b""
    with socket.create_connection((host, port), timeout=20) as link:
        link.sendall(bytes([0x10, len(body)]) + body)
        answer = link.recv(4)
        return answer[3] if len(answer) == 4 else None


def wrong_configuration_is_refused_with_its_place():
    with Directory() as directory:
        path = write(directory, "polylogd.conf", "# one\nmqtt.port = 1883\nmqtt.prot = 1884\n")
        assert refused("-c", path) == f"polylogd: {path}:3: no such option 'mqtt.prot'\n"
        assert "is a directory" in refused("-c", directory)
        assert "No such file" in refused("--config", path + ".not")
        said = refused("--set", "workers=many")
        assert said.startswith("polylogd: --set workers=many: workers is a number"), said
        assert refused("--check-config", "--set", "tls.cert=/nowhere", "--set", "tls.key=/nowhere").count("/nowhere")


def check_config_says_good():
    with Directory() as directory:
        path = write(directory, "polylogd.conf", "log.level = debug\n")
        done = subprocess.run([POLYLOGD, "-c", path, "--check-config"], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (0, "configuration is good\n"), done
        assert os.listdir(directory) == ["polylogd.conf"]


def a_wrong_call_ends_with_2():
    for arguments in (["--nonsense"], ["stray"]):
        done = subprocess.run([POLYLOGD, *arguments], capture_output=True, text=True, timeout=60)
        assert done.returncode == 2, done


def keys_of_later_parts_are_ignored_with_a_warning():
    running = Gateway(None, "kafka.port=9092")
    warnings = [line for line in running.stderr().splitlines() if "kafka.port" in line]
    assert len(warnings) == 1, running.stderr()
    assert running.stop() == 0


def the_ready_line_names_all_listeners(running):
    assert len(running.lines) == 1
    words = running.lines[0].split()
    assert words[0] == "ready" and [word.partition("=")[0] for word in words[1:]] == ["mqtt", "amqp", "http"], words
    assert all(word.partition("=")[2].startswith("127.0.0.1:") for word in words[1:]), words


def a_listener_can_be_off():
    running = Gateway(None, "http.port=off")
    assert list(running.ports) == ["mqtt", "amqp"]
    assert running.stop() == 0


def a_store_in_use_is_refused(running):
    said = refused("--data", running.data, "--set", "mqtt.port=0", "--set", "amqp.port=0", "--set", "http.port=0")
    assert "in use" in said, said


def a_port_in_use_is_refused(running):
    """Also when a gateway has it, whose listeners share the port among themselves."""
    with Directory() as directory:
        for key, port in (("mqtt.port", running.mqtt_port), ("amqp.port", running.amqp_port),
                          ("http.port", running.http_port)):
            said = refused("--data", os.path.join(directory, "data"), "--set", "mqtt.port=off", "--set",
                           "amqp.port=off", "--set", "http.port=off", "--set", f"{key}={port}")
            assert f"port {port}: Address already in use" in said, said
    assert running.alive()


def without_a_user_only_loopback_is_served():
    with Directory() as directory:
        data = os.path.join(directory, "data")
        said = refused("--data", data, "--set", "listen=0.0.0.0", "--set", "mqtt.port=0", "--set", "amqp.port=0", "--set", "http.port=0")
        assert "polylog user add NAME --data" in said and "0.0.0.0" in said, said


def the_first_user_opens_the_gateway_to_the_world():
    with Directory() as directory:
        data = os.path.join(directory, "data")
        assert add_user(data, "ann", "secret").returncode == 0
        again = add_user(data, "ann", "secret")
        assert again.returncode == 1 and "exists already" in again.stderr, again
        assert add_user(data, "bob", "other").returncode == 0
        running = Gateway(data, "listen=0.0.0.0")
        busy = add_user(data, "eve", "x")
        assert busy.returncode == 1 and "in use" in busy.stderr, busy
        assert mqtt_connect(running.mqtt_port, "ann", "secret") == 0
        assert mqtt_connect(running.mqtt_port, "bob", "other") == 0
        assert mqtt_connect(running.mqtt_port, "ann", "wrong") in (4, 5)
        assert mqtt_connect(running.mqtt_port) in (4, 5)
        assert running.stop() == 0


def users_of_a_file_are_made_once():
    with Directory() as directory:
        data = os.path.join(directory, "data")
        users = write(directory, "users", "# NAME PASSWORD GRANTS\n\nann secret\nbob pw publish topic:b/#\n")
        running = Gateway(data, "listen=0.0.0.0", f"user.file={users}")
        assert mqtt_connect(running.mqtt_port, "bob", "pw") == 0
        write(directory, "users", "ann changed\nbob pw\n")
        running.restart()
        assert mqtt_connect(running.mqtt_port, "ann", "secret") == 0
        running.stop()
        write(directory, "users", "ann x\neve\n")
        said = refused("--data", data, "--set", "mqtt.port=0", "--set", "amqp.port=0", "--set", "http.port=0", "--set", f"user.file={users}")
        assert f"{users}:2: user eve has no password" in said, said


def systemd_is_told():
    with Directory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        path = os.path.join(directory, "notify")
        manager.bind(path)
        manager.settimeout(30)
        os.environ["NOTIFY_SOCKET"] = path
        try:
            running = Gateway()
        finally:
            del os.environ["NOTIFY_SOCKET"]
        assert manager.recv(100) == b"READY=1"
        running.process.send_signal(signal.SIGTERM)
        assert manager.recv(100) == b"STOPPING=1"
        assert running.stop() == 0


def a_hang_up_reads_the_level_again():
    with Directory() as directory:
        path = write(directory, "polylogd.conf", "log.level = info\nmqtt.port = 0\namqp.port = 0\nhttp.port = 0\n")
        process = subprocess.Popen([POLYLOGD, "-c", path, "--data", os.path.join(directory, "data")],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stdout.readline().startswith("ready")
            assert "io_uring" in process.stderr.readline()
            write(directory, "polylogd.conf", "log.level = loud\n")
            process.send_signal(signal.SIGHUP)
            assert "log.level is debug, info, warn or error" in process.stderr.readline()
            assert process.poll() is None
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(40) == 0


def interrupt_ends_it_too(running):
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(40) == 0


gateway.run(
    wrong_configuration_is_refused_with_its_place,
    check_config_says_good,
    a_wrong_call_ends_with_2,
    keys_of_later_parts_are_ignored_with_a_warning,
    the_ready_line_names_all_listeners,
    a_listener_can_be_off,
    a_store_in_use_is_refused,
    a_port_in_use_is_refused,
    without_a_user_only_loopback_is_served,
    the_first_user_opens_the_gateway_to_the_world,
    users_of_a_file_are_made_once,
    systemd_is_told,
    a_hang_up_reads_the_level_again,
    interrupt_ends_it_too,
)
