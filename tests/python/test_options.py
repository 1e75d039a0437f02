"""What `faasnap serve` can be told, right and wrong, and what a node says of itself when it can't take calls."""

import ctypes
import json
import os
import re
import socket
import subprocess
import threading
import time

import pytest
from botocore.exceptions import ClientError

from conftest import ROLE, Node, python

SLEEPS = python("import time\ndef handler(event, context):\n    time.sleep(event.get('for', 0))\n    return 1\n")
IS_ROOT = os.geteuid() == 0


def make(client, *names, **settings):
    for name in names:
        client.create_function(FunctionName=name, Runtime="python3.11", Handler="app.handler", Role=ROLE, Code={"ZipFile": SLEEPS}, MemorySize=256, Timeout=20, **settings)
        client.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig={"Delay": 0.1})


def get(node, path, timeout=10):
    """Status and body, over a connection of its own."""
    host, port = node.endpoint.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode(errors="replace")


def value(node, name):
    return int(re.search(rf"^faasnap_{re.escape(name)} (\d+)", get(node, "/_/metrics")[1], re.M).group(1))


@pytest.fixture
def serve(tmp_path):
    nodes = []

    def start(*options, **how):
        nodes.append(Node(tmp_path / "home", *options, **how))
        return nodes[-1]

    (tmp_path / "home").mkdir()
    yield start
    for node in nodes:
        if node.process.poll() is None:
            node.kill()


WRONG = {
    "--listen here": "invalid socket address",
    "--auth some": "sigv4, none",
    "--region US": "us-east-1",
    "--account 1": "12 digits",
    "--concurrency 0": "0 is not in 1..",
    "--connections 0": "0 is not in 1..=1000000",
    "--connections many": "invalid digit",
    "--disk-quota 0": "0 is not in 1..=",
    "--grace soon": "invalid digit",
    "--keep-alive soon": "a number of seconds, memory, or histogram",
    "--keep-alive -1": "unexpected argument",
    "--memory-budget 0": "0 is not in 128..",
    "--memory-budget lots": "invalid digit",
    "--no-automatic-snapshots=yes": "unexpected value",
}


@pytest.mark.parametrize("line", WRONG)
def test_wrong_values_are_refused_with_what_is_right(tmp_path, line):
    done = subprocess.run([os.environ["FAASNAP_BIN"], "--home", tmp_path, "serve", *line.split()], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2 and WRONG[line] in done.stderr, done.stderr
    assert not done.stdout


def test_a_node_that_is_being_shut_down_is_not_ready_and_says_so(serve):
    node = serve()
    client = node.client()
    make(client, "slow")
    client.invoke(FunctionName="slow")
    answers = []
    caller = threading.Thread(target=lambda: answers.append(node.client().invoke(FunctionName="slow", Payload=b'{"for": 3}')["Payload"].read()))
    caller.start()
    while value(node, "running_invocations") == 0:
        time.sleep(0.01)
    assert get(node, "/_/ready") == (200, '{"ready":true}')
    node.process.terminate()
    while get(node, "/_/ready")[0] == 200:
        time.sleep(0.01)
    status, body = get(node, "/_/ready")
    assert (status, json.loads(body)) == (503, {"ready": False, "reasons": ["the node is being shut down"]})
    assert get(node, "/_/health")[0] == 200
    status, body = get(node, "/2015-03-31/functions")
    assert status == 500 and json.loads(body)["Message"] == "The node is being shut down."
    caller.join()
    assert answers == [b"1"]
    assert node.process.wait(timeout=60) == 0


@pytest.mark.skipif(not IS_ROOT, reason="mounts a file system")
def test_a_node_without_room_on_its_disk_is_not_ready(tmp_path, serve):
    home = tmp_path / "home"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", home], check=True)
    try:
        node = serve(fresh=False)
        assert get(node, "/_/ready") == (200, '{"ready":true}')
        (home / "fill").write_bytes(bytes(56 << 20))
        status, body = get(node, "/_/ready")
        assert status == 503 and "the home's disk is full" in body, body
        (home / "fill").unlink()
        assert get(node, "/_/ready")[0] == 200
        node.kill()
    finally:
        subprocess.run(["umount", "-l", home], check=True)


@pytest.mark.skipif(not IS_ROOT, reason="mounts over /dev/kvm, in a mount namespace of its own")
def test_a_node_without_kvm_is_not_ready(tmp_path, serve):
    with socket.socket(socket.AF_UNIX) as nothing:
        nothing.bind(str(tmp_path / "s"))
        hide = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /dev/kvm && exec "$@"', str(tmp_path / "s")]
        node = serve(fresh=False, before=hide)
        status, body = get(node, "/_/ready")
        assert status == 503 and re.search("/dev/kvm can't be opened: .+", body), body
        assert get(node, "/_/health")[0] == 200
        assert node.stop() == 0


def test_idle_instances_stay_until_their_memory_is_needed(serve):
    node = serve("--keep-alive", "memory", "--memory-budget", "128", "--no-automatic-snapshots")
    client = node.client()
    make(client, "a", "b", "c")
    answers = []
    caller = threading.Thread(target=lambda: answers.append(node.client().invoke(FunctionName="a", Payload=b'{"for": 4}')["Payload"].read()))
    caller.start()
    while value(node, "instances{state=\"busy\"}") == 0:
        time.sleep(0.01)
    # A new function is taken to need 80 MiB, and nobody is idle who could make room.
    with pytest.raises(ClientError) as caught:
        client.invoke(FunctionName="b")
    error = caught.value.response
    assert (error["Error"]["Code"], error["Reason"]) == ("TooManyRequestsException", "ConcurrentInvocationLimitExceeded")
    caller.join()
    assert answers == [b"1"]
    for name in "bc":
        assert client.invoke(FunctionName=name)["Payload"].read() == b"1"
    assert value(node, "instances_evicted") >= 1


def test_histories_of_idle_times_are_kept_for_the_next_node(serve):
    node = serve("--keep-alive", "histogram", "--no-automatic-snapshots")
    client = node.client()
    make(client, "a")
    for _ in range(2):
        assert client.invoke(FunctionName="a")["Payload"].read() == b"1"
    assert node.stop() == 0
    assert '"a"' in (node.home / "idle-times.json").read_text()
    node.start()
    assert node.client().invoke(FunctionName="a")["Payload"].read() == b"1"


def test_more_connections_than_there_may_be_make_room(serve):
    node = serve("--connections", "2")
    host, port = node.endpoint.removeprefix("http://").split(":")
    idle = [socket.create_connection((host, int(port)), 10) for _ in range(2)]
    assert get(node, "/_/health")[0] == 200
    # The one that has been idle for the longest was ended.
    assert idle[0].recv(1) == b""
    for connection in idle:
        connection.close()


@pytest.mark.parametrize("automatic", [True, False])
def test_snapshots_that_nobody_asked_for_can_be_left_out(serve, automatic):
    node = serve(*[] if automatic else ["--no-automatic-snapshots"])
    make(node.client(), "a")
    assert node.client().invoke(FunctionName="a")["Payload"].read() == b"1"
    # It ends when what is being made is there.
    assert node.stop() == 0
    assert len(json.loads(node.faasnap("snapshot", "list", "a", "--json"))) == automatic


def test_replaced_code_stays_for_the_grace_period(serve):
    node = serve("--grace", "3600")
    client = node.client()
    make(client, "a")
    location = client.get_function(FunctionName="a")["Code"]["Location"].removeprefix(node.endpoint)
    client.update_function_code(FunctionName="a", ZipFile=python("def handler(event, context): return 2\n"))
    status, _ = get(node, location)
    assert status == 200
    assert len(list((node.home / "packages").glob("*.zip"))) == 2
    assert node.stop() == 0
    node.options = ("--grace", "0")
    node.start()
    assert len(list((node.home / "packages").iterdir())) == 1


def test_a_linux_guest_asks_for_its_network_as_others_do(serve, tmp_path):
    node = serve()
    kernel = tmp_path / "kernel"
    # The head of a vmlinux.
    kernel.write_bytes(b"\x7fELF\2\1" + bytes(10) + b"\2\0" + bytes(4096))
    (tmp_path / "code").mkdir()
    (tmp_path / "code/app.py").write_text("def handler(event, context): return 1\n")
    node.faasnap("kernel", "import", str(kernel))
    create = ["function", "create", "linux", "--runtime", "python3.11", "--handler", "app.handler", "--code", str(tmp_path / "code"), "--guest", "linux"]
    node.faasnap(*create, "--network")
    client = node.client()
    arn = client.get_function_configuration(FunctionName="linux")["FunctionArn"]
    assert client.list_tags(Resource=arn)["Tags"] == {"faasnap:network": "outbound"}
    client.tag_resource(Resource=arn, Tags={"faasnap:network": "none"})


def test_what_a_killed_node_has_left_does_not_keep_its_home(tmp_path):
    """A child that is not yet a worker has the node's open files for a moment longer than the node."""
    node = Node(tmp_path, "--auth", "none")
    try:
        pid = node.process.pid
        files = [int(name) for name in os.listdir(f"/proc/{pid}/fd") if os.readlink(f"/proc/{pid}/fd/{name}").endswith("node.lock")]
        assert len(files) == 1
        pidfd_getfd = 438
        kept = ctypes.CDLL(None, use_errno=True).syscall(pidfd_getfd, os.pidfd_open(pid), files[0], 0)
        assert kept >= 0, os.strerror(ctypes.get_errno())
        second = subprocess.run([os.environ["FAASNAP_BIN"], "--home", node.home, "serve", "--listen", "127.0.0.1:0"], capture_output=True, text=True)
        assert second.returncode == 3 and "a node serves" in second.stderr, second
        node.kill()
        node.start()
        os.close(kept)
        assert node.stop() == 0
    finally:
        if node.process.poll() is None:
            node.kill()
