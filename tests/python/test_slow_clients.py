"""Clients that dawdle: they hold up nobody, and the node ends what leads nowhere."""

import contextlib
import http.client
import json
import os
import pathlib
import socket
import time

import pytest

from conftest import ROLE, Node, python
from test_mutations import anyone

LIMIT = 40
LARGE = python("def handler(event, context):\n    return 'x' * event['bytes']\n")
WHOLE = b'{"bytes": 5000000}'


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """A node with room for few connections."""
    node = Node(tmp_path_factory.mktemp("home"), "--auth", "none", "--connections", str(LIMIT))
    client = anyone(node)
    client.create_function(FunctionName="large", Runtime="python3.11", Handler="app.handler", Role=ROLE, Code={"ZipFile": LARGE}, MemorySize=256)
    client.get_waiter("function_active_v2").wait(FunctionName="large", WaiterConfig={"Delay": 0.1})
    assert invoke(node, b'{"bytes": 1}') == "x"
    yield node
    assert node.stop() == 0, (node.home / "serve.log").read_text()[-4000:]


def connect(node):
    host, port = node.endpoint.removeprefix("http://").split(":")
    # An answer that has not come by then does not come.
    return socket.create_connection((host, int(port)), timeout=60)


def request(body, kind="/2015-03-31/functions/large/invocations"):
    return b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (kind.encode(), len(body), body)


def answer(connection):
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, response.read()


def invoke(node, body):
    with connect(node) as connection:
        connection.sendall(request(body))
        status, text = answer(connection)
        assert status == 200, text
        return json.loads(text)


def is_closed(connection):
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_idle_connections_make_room_for_those_that_ask(narrow):
    beginnings = (b"", b"GET /_/health HT", b"GET /_/health HTTP/1.1\r\nHost: x\r\nA: ", b"\r\n")
    idle = []
    for number in range(3 * LIMIT):
        idle.append(connect(narrow))
        idle[-1].sendall(beginnings[number % len(beginnings)])
    kept = connect(narrow)
    kept.sendall(request(b'{"bytes": 2}'))
    assert answer(kept) == (200, b'"xx"')
    for _ in range(20):
        assert invoke(narrow, b'{"bytes": 3}') == "xxx"
    closed = [is_closed(connection) for connection in idle]
    assert sum(closed) >= len(idle) - LIMIT, "those beyond the limit are gone"
    assert sum(closed[: LIMIT]) == LIMIT, "the oldest went first"
    for connection in (*idle, kept):
        connection.close()


def test_a_client_that_will_send_no_more_gets_its_answer(narrow):
    with connect(narrow) as connection:
        connection.sendall(request(b'{"bytes": 4}'))
        connection.shutdown(socket.SHUT_WR)
        assert answer(connection) == (200, b'"xxxx"')
        assert connection.recv(1) == b"", "and then the node closes"
    with connect(narrow) as connection:
        connection.sendall(request(b'{"bytes": 4}')[:-3])
        connection.shutdown(socket.SHUT_WR)
        status, text = answer(connection)
        assert status == 400 and "broke off" in json.loads(text)["message"]


def test_slow_senders_hold_up_nobody(narrow):
    slow = [connect(narrow) for _ in range(LIMIT // 2)]
    for connection in slow:
        connection.sendall(request(b'{"bytes": 5}')[:-1])
    for _ in range(20):
        assert invoke(narrow, b'{"bytes": 3}') == "xxx"
    for connection in slow:
        connection.sendall(b"}")
    assert [answer(connection) for connection in slow] == [(200, b'"xxxxx"')] * len(slow), "within a request none is ended"
    for connection in slow:
        connection.close()


@pytest.mark.parametrize("path", ["/2015-03-31/functions/large/invocations", "/2021-11-15/functions/large/response-streaming-invocations"])
def test_slow_readers_hold_up_nobody_and_get_all(narrow, path):
    slow = [connect(narrow) for _ in range(4)]
    for connection in slow:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.sendall(request(WHOLE, path))
    # They read their first bytes, and then nothing for now.
    assert all(connection.recv(100, socket.MSG_PEEK) for connection in slow)
    for _ in range(20):
        assert invoke(narrow, b'{"bytes": 3}') == "xxx"
    for connection in slow:
        status, body = answer(connection)
        assert status == 200 and body.count(b"x") >= 5_000_000
        connection.close()


def test_clients_that_go_away_leave_nothing(narrow):
    def descriptors():
        """Those of the node but for its instances: of those that answered into the void many stay warm, each with some."""
        links = []
        for descriptor in pathlib.Path(f"/proc/{narrow.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                links.append(os.readlink(descriptor))
        instances = sum("last-words" in link for link in links)
        of_instances = sum(any(part in link for part in ("last-words", "pidfd", "user:", "/snapshots/")) for link in links)
        return len(links) - of_instances - instances  # a socket each

    invoke(narrow, b'{"bytes": 1}')
    before = descriptors()
    for number in range(30):
        connection = connect(narrow)
        connection.sendall(request(WHOLE if number % 2 else b'{"bytes": 1}')[: None if number % 3 else -1])
        if number % 5 == 0:
            # Closed with a reset.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()
    for _ in range(300):
        invoke(narrow, b'{"bytes": 1}')
        if descriptors() <= before + 5:
            break
        time.sleep(0.1)
    assert descriptors() <= before + 5
    assert "panicked" not in (narrow.home / "serve.log").read_text()
