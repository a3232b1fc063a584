#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The rules of the house as a test: includes run one way, codecs stand on core/base alone, core knows no
protocol, some functions are banned, every source says its licence, every folder says what it is, and no file
names a place on somebody's machine. Prints one line per breach."""
import os
import re
import sys

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
OUTSIDE = {".git", "build", "data", "__pycache__", "node_modules"}

# Folder -> folders whose headers it may include, itself apart. A name with .h stands for that file only.
# Storage is called by the two modules that own the log and its groups, and by nobody above them.
CORE = ["core/base", "core/net", "core/log", "core/queue", "core/broker"]
ENGINE = ["core/base", "core/net/request.h", "core/net/mailbox.h", "core/net/loop.h", "storage"]
ARROWS = {
    "core/base": [],
    "core/net": ["core/base"],
    "core/log": ["core/base", "core/net", "storage"],
    "core/queue": ["core/base", "core/net", "core/log", "storage"],
    "core/broker": CORE[:-1],
    "storage": ENGINE,
    "storage/memory": ENGINE,
    "storage/rocksdb": ENGINE,
    "storage/kafka": ENGINE,
    "adapters": CORE,
    "adapters/mqtt": CORE + ["adapters"],
    "adapters/amqp": CORE + ["adapters"],
    "adapters/kafka": CORE + ["adapters"],
    "adapters/http": CORE + ["adapters"],
    "adapters/rest": CORE + ["adapters", "adapters/http"],
    "adapters/ws": CORE + ["adapters", "adapters/http", "adapters/mqtt", "adapters/amqp"],
}
# polylogd.c alone names adapters; it and the command line (which opens stores) name engines.
GATEWAY = CORE + ["storage", "gateway"]

INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)
BANNED = re.compile(r"\b(strcpy|strcat|sprintf|vsprintf|atoi|gets|strtok)\s*\(")
COMMENT_OR_TEXT = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', re.S)
PROTOCOL = re.compile(r"\b(mqtt|amqp|kafka)_", re.I)
MACHINE = re.compile(r"(?<!\w)/(work|root|home)/\w")
LICENCE = "SPDX-License-Identifier: Apache-2.0"
CODEC = re.compile(r"add_library\(\w+_codec\s+STATIC\s+([^)]*)\)")
README_LINES_MAX = 20
README_COLUMNS_MAX = 120
PRODUCT = ("core/", "adapters/", "storage/", "gateway/")


def folder_of(path):
    return os.path.dirname(path)


def is_under(folder, top):
    return folder == top or folder.startswith(top + "/")


def may_include(path, target):
    folder, to = folder_of(path), folder_of(target)
    if folder == "tests" or folder.startswith("tests/"):
        return True
    if is_under(folder, "gateway"):
        if is_under(to, "adapters"):
            return path == "gateway/polylogd.c"
        return any(is_under(to, top) for top in GATEWAY)
    # The longest rule that covers the folder is its own.
    rules = [rule for rule in ARROWS if is_under(folder, rule)]
    if not rules:
        return False
    own = max(rules, key=len)
    # What engines and adapters share must not reach down into one of them.
    home = to == own if own in ("storage", "adapters") else is_under(to, own)
    return home or any(allowed in (target, to) for allowed in ARROWS[own])


def check_includes(path, text, exists):
    for target in INCLUDE.findall(text):
        if not exists(target):
            yield f"{path}: includes {target}, which is no file from the root"
        elif not may_include(path, target):
            yield f"{path}: must not include {target}"


def check_text(path, text):
    code = COMMENT_OR_TEXT.sub(" ", text)
    for name in BANNED.findall(code):
        yield f"{path}: {name}() is banned"
    if path.startswith("core/"):
        for match in PROTOCOL.finditer(text):
            yield f"{path}: core knows no {match.group(0)}"


def check_licence(path, text):
    first = text.split("\n", 3)[:3]
    if path.endswith((".c", ".h")):
        good = first[0] == f"/* {LICENCE} */"
    else:
        good = any(line == f"# {LICENCE}" for line in first)
    if not good:
        yield f"{path}: does not begin with {LICENCE}"


def check_codec(folder, sources, read):
    """Follows the includes of a codec through its own folder; everything else must be core/base."""
    waiting, seen = [f"{folder}/{source}" for source in sources], set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for target in INCLUDE.findall(read(path) or ""):
            if folder_of(target) == folder:
                waiting.append(target)
            elif folder_of(target) != "core/base":
                yield f"{path}: part of a codec, must not include {target}"


def check_readme(folder, text):
    if text is None:
        yield f"{folder}: has no README.md"
    elif len(text.splitlines()) > README_LINES_MAX:
        yield f"{folder}/README.md: longer than {README_LINES_MAX} lines"
    elif (folder + "/").startswith(PRODUCT) and max(map(len, text.splitlines()), default=0) > README_COLUMNS_MAX:
        yield f"{folder}/README.md: a line longer than {README_COLUMNS_MAX} characters"


def files_of_the_house():
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in OUTSIDE]
        for name in set(names) - OUTSIDE:  # .git is a file in a worktree
            yield os.path.relpath(os.path.join(folder, name), ROOT)


def read_text(path):
    try:
        with open(os.path.join(ROOT, path), encoding="utf-8") as file:
            return file.read()
    except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
        return None


def is_source(path, text):
    return path.endswith((".c", ".h", ".py", ".sh", ".cmake", "CMakeLists.txt")) or text.startswith("#!")


def breaches():
    folders = set()
    for path in files_of_the_house():
        text = read_text(path)
        if text is None:        # bytes, such as a fuzz seed
            continue
        if MACHINE.search(text) and "/corpus/" not in path:
            yield f"{path}: names a path of one machine"
        if is_source(path, text):
            yield from check_licence(path, text)
        if path.endswith((".c", ".h")):
            folders.add(folder_of(path))
            yield from check_includes(path, text, lambda target: os.path.isfile(os.path.join(ROOT, target)))
            yield from check_text(path, text)
        if os.path.basename(path) == "CMakeLists.txt":
            for sources in CODEC.findall(text):
                yield from check_codec(folder_of(path), sources.split(), read_text)
    for folder in sorted(folders):
        yield from check_readme(folder, read_text(f"{folder}/README.md"))


def check_the_check():
    """Each rule must see a breach of it, and let the house as planned pass."""
    allowed = [("core/log/log.c", "storage/storage.h"), ("core/broker/broker.c", "core/queue/queue.h"),
               ("storage/memory/memory.c", "core/net/request.h"), ("storage/rocksdb/row.c", "storage/storage.h"),
               ("storage/rocksdb/row.c", "storage/rocksdb/row.h"), ("storage/envelope.c", "storage/envelope.h"),
               ("adapters/mqtt/session.c", "adapters/adapter.h"), ("adapters/rest/x.c", "adapters/http/http.h"),
               ("gateway/polylogd.c", "adapters/mqtt/mqtt.h"), ("gateway/cli/x.c", "gateway/cli/x.h")]
    refused = [("core/base/buf.c", "core/net/loop.h"), ("core/log/log.c", "core/queue/queue.h"),
               ("core/broker/broker.c", "storage/storage.h"), ("core/log/log.c", "storage/rocksdb/row.h"),
               ("storage/memory/memory.c", "core/net/stream.h"), ("storage/memory/memory.c", "core/log/log.h"),
               ("storage/memory/memory.c", "storage/rocksdb/row.h"), ("storage/x.c", "storage/memory/memory.h"),
               ("adapters/mqtt/session.c", "adapters/rest/rest.h"), ("adapters/adapter.c", "adapters/mqtt/mqtt.h"),
               ("adapters/mqtt/session.c", "storage/storage.h"), ("gateway/config.c", "adapters/mqtt/mqtt.h"),
               ("core/new/x.c", "core/base/buf.h"), ("core/net/x.c", "gateway/config.h")]
    for path, target in allowed:
        assert may_include(path, target), (path, target)
    for path, target in refused:
        assert not may_include(path, target), (path, target)
    assert list(check_includes("core/base/x.c", '#include "x.h"\n', lambda target: False))
    assert list(check_text("tests/x.c", "strcpy(a, b);"))
    assert not list(check_text("tests/x.c", '/* strcpy(a) */ snprintf(a); "gets("'))
    assert list(check_text("core/x.c", "/* Kafka_x */"))
    assert list(check_licence("x.c", "int x;\n")) and not list(check_licence("x.py", f"#!x\n# {LICENCE}\n"))
    files = {"a/c.c": '#include "a/c.h"\n', "a/c.h": '#include "core/net/loop.h"\n'}
    assert list(check_codec("a", ["c.c"], files.get))
    assert list(check_readme("a", None)) and list(check_readme("a", "x\n" * 21))
    assert list(check_readme("core/a", "x" * 121)) and not list(check_readme("core/a", "x" * 120))
    assert MACHINE.search("/ro" + "ot/x")


check_the_check()
found = sorted(set(breaches()))
print("\n".join(found))
sys.exit(1 if found else 0)
