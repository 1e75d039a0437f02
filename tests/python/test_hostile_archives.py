"""Archives that mean harm, by each way that archives come in: refused in AWS's words, nothing written outside, nothing left."""

import io
import json
import os
import pathlib
import re
import stat
import struct
import time
import zipfile
import zlib

import pytest
from botocore.exceptions import ClientError

from conftest import HELLO, ROLE, below

NOT_UNZIPPED = "Could not unzip uploaded file. Please check your file, then try to upload again."
TOO_LARGE = "Unzipped size must be smaller than 262144000 bytes"


def entry(name, content=b"x", mode=stat.S_IFREG | 0o644, **changes):
    """An entry as the archive has it: `changes` are what its headers claim instead of the truth."""
    name = name if isinstance(name, bytes) else name.encode()
    packed = zlib.compress(content, 9)[2:-4]
    claim = {"crc": zlib.crc32(content), "size": len(content), "packed": len(packed), "flags": 0x800, "method": 8, "data": packed} | changes
    fields = struct.pack("<HHHHLLLHH", claim["flags"], claim["method"], 0, 0x5C21, claim["crc"], claim["packed"], claim["size"], len(name), 0)
    return name, fields, claim["data"], mode


def archive(*entries, comment=b"", cut=None):
    out, directory = io.BytesIO(), b""
    for name, fields, data, mode in entries:
        directory += b"PK\1\2" + struct.pack("<HH", 0x031E, 20) + fields[:-2] + struct.pack("<HHHHLL", 0, 0, 0, 0, (mode << 16) & 0xFFFFFFFF, out.tell()) + name
        out.write(b"PK\3\4" + struct.pack("<H", 20) + fields + name + data)
    start = out.tell()
    count = min(len(entries), 0xFFFF)
    out.write(directory + b"PK\5\6" + struct.pack("<HHHHLLH", 0, 0, count, count, len(directory), start, len(comment)) + comment)
    return out.getvalue()[:cut]


def link(name, target):
    return entry(name, target.encode(), stat.S_IFLNK | 0o777)


def nested(levels):
    data = b"\0" * (1 << 20)
    for _ in range(levels):
        inner = io.BytesIO()
        with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as target:
            for number in range(8):
                target.writestr(f"{number}.zip", data)
        data = inner.getvalue()
    return data


GOOD = entry("app.py", b"def handler(event, context):\n    return 1\n")
BOMB = b"\0" * 300_000_000
SEVERAL = b"\0" * 90_000_000
HOSTILE = {
    "path that leads up": archive(GOOD, entry("../escaped")),
    "path that leads up later": archive(GOOD, entry("a/b/../../../escaped")),
    "absolute path": archive(GOOD, entry("/tmp/faasnap-escaped")),
    "backslashes that lead up": archive(GOOD, entry("..\\escaped")),
    "link and then through it": archive(entry("out/", b"", stat.S_IFDIR | 0o755), link("out/link", "/tmp"), entry("out/link/faasnap-escaped")),
    "link that leads out": archive(GOOD, link("passwd", "/etc/passwd")),
    "link that leads up": archive(GOOD, link("a/up", "../../x")),
    "link to itself, and then through it": archive(link("a", "a"), entry("a/b")),
    "link in place of a folder": archive(link("d", "/tmp"), entry("d/faasnap-escaped")),
    "the same name as file and folder": archive(entry("a"), entry("a/b")),
    "same name twice": archive(GOOD, GOOD),
    "one bomb": archive(GOOD, entry("bomb", BOMB)),
    "bomb that says it is small": archive(GOOD, entry("bomb", BOMB, size=10)),
    "bomb in pieces": archive(GOOD, *(entry(f"bomb-{number}", SEVERAL) for number in range(3))),
    "wrong checksum": archive(GOOD, entry("a", b"abc", crc=1)),
    "encrypted": archive(GOOD, entry("a", b"abc", flags=0x801)),
    "unknown method": archive(GOOD, entry("a", b"abc", method=99)),
    "data that is no deflate": archive(GOOD, entry("a", b"abc", data=b"\xff" * 20, packed=20)),
    "a device": archive(GOOD, entry("null", b"", stat.S_IFCHR | 0o666)),
    "a pipe": archive(GOOD, entry("pipe", b"", stat.S_IFIFO | 0o666)),
    "a socket": archive(GOOD, entry("socket", b"", stat.S_IFSOCK | 0o666)),
    "name with a zero": archive(GOOD, entry(b"a\0b")),
    "very long name": archive(GOOD, entry("a" * 300)),
    "very deep name": archive(GOOD, entry("a/" * 3000 + "b")),
    "empty name": archive(GOOD, entry("")),
    "dot": archive(GOOD, entry(".")),
    "cut": archive(GOOD, entry("a", os.urandom(1000)), cut=-100),
    "cut in the data": archive(GOOD, entry("a", os.urandom(1000)), cut=500),
    "no archive": b"PK\3\4" + b"\0" * 100,
    "directory that is somewhere else": archive(GOOD).replace(b"PK\5\6" + b"\0" * 4 + b"\1\0\1\0", b"PK\5\6" + b"\0" * 4 + b"\377\377\377\377"),
    "a kind that there is not": archive(GOOD, entry("x", b"", 0o170644)),
}
# These are archives that AWS takes, too; what is inside is the function's own affair.
HARMLESS = {
    "size that is not true: counted are the bytes that come": archive(GOOD, entry("a", b"abc", size=2)),
    "name that is no UTF-8": archive(GOOD, entry(b"\xff\xfe")),
    "name that is no UTF-8 and does not say so": archive(GOOD, entry(b"\xff\xfe", flags=0)),
    "nested archives": archive(GOOD, entry("nested.zip", nested(2))),
    "a comment": archive(GOOD, comment=b"x" * 65_000),
    "link inside": archive(GOOD, link("alias.py", "app.py")),
    "setuid": archive(GOOD, entry("root", b"x", stat.S_IFREG | 0o6755)),
}


def kept(node):
    """Everything below the home but databases, logs and snapshots, which come by themselves."""
    paths = {str(path.relative_to(node.home)) for path in below(node.home)}
    return {path for path in paths if not re.match(r"(registry|events)\.sqlite|logs|snapshots|serve\.log|trash/", path)}


def left_behind(node, before):
    """What is there that was not, once nothing is in the making: functions of other tests may be snapshotted at this very moment."""
    for _ in range(300):
        new = kept(node) - before
        if not new:
            break
        time.sleep(0.1)
    return new


def mode(path):
    """Of the thing itself; nothing of one that has gone meanwhile."""
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return 0


def outside():
    return [path for path in (pathlib.Path("/tmp/faasnap-escaped"), pathlib.Path("/escaped")) if path.exists()]


def offered(client, way, code):
    if way == "create":
        client.create_function(FunctionName="hostile", Runtime="python3.11", Handler="app.handler", Role=ROLE, Code={"ZipFile": code})
        return client.delete_function(FunctionName="hostile")
    if way == "update":
        return client.update_function_code(FunctionName="victim", ZipFile=code)
    return client.publish_layer_version(LayerName="hostile", Content={"ZipFile": code})


@pytest.fixture(scope="module")
def victim(client):
    client.create_function(FunctionName="victim", Runtime="python3.11", Handler="app.handler", Role=ROLE, Code={"ZipFile": HELLO}, MemorySize=256)
    client.get_waiter("function_active_v2").wait(FunctionName="victim", WaiterConfig={"Delay": 0.1})
    yield
    client.delete_function(FunctionName="victim")


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_archives_are_refused_and_leave_nothing(node, client, victim, what):
    code = HOSTILE[what]
    # One that unpacks to hundreds of megabytes is tried once; each way goes through the same code.
    before = kept(node)
    for way in ("create", "update", "layer") if len(code) < 100_000 and "bomb" not in what else ("create",):
        with pytest.raises(ClientError) as caught:
            offered(client, way, code)
        error = caught.value.response
        assert error["Error"]["Code"] == "InvalidParameterValueException", (way, error)
        assert error["ResponseMetadata"]["HTTPStatusCode"] == 400, (way, error)
        assert error["Error"]["Message"].startswith(TOO_LARGE if "bomb" in what and "small" not in what else (NOT_UNZIPPED, TOO_LARGE)), (way, error)
        assert not outside()
        assert not left_behind(node, before), way
    assert json.load(client.invoke(FunctionName="victim")["Payload"])["version"] == "$LATEST"


@pytest.mark.parametrize("what", HARMLESS)
def test_odd_archives_are_kept_below_the_home(node, client, what):
    client.create_function(FunctionName="odd", Runtime="python3.11", Handler="app.handler", Role=ROLE, Code={"ZipFile": HARMLESS[what]}, MemorySize=256)
    client.get_waiter("function_active_v2").wait(FunctionName="odd", WaiterConfig={"Delay": 0.1})
    try:
        assert client.invoke(FunctionName="odd")["Payload"].read() == b"1"
        assert not outside()
        strange = [path for path in below(node.home / "trees") if mode(path) & 0o6000]
        assert strange == []
    finally:
        client.delete_function(FunctionName="odd")


def test_archives_that_are_too_large_are_refused_before_they_are_unpacked(client):
    with pytest.raises(ClientError) as caught:
        offered(client, "create", b"PK" + b"\0" * 52_428_800)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] in (400, 413)
