"""`faasnap invoke` says the same with a node that serves the home as without one."""

import json
import os
import re
import subprocess

import pytest

from conftest import ROLE, Node, python

CODE = python(
    "import sys\n"
    "print('imported')\n"
    "def handler(event, context):\n"
    "    for number in range(event.get('lines', 0)): print(number, 'x' * 90)\n"
    "    sys.stderr.write('no line\\n')\n"
    "    if event.get('how') == 'raise': raise ValueError('no')\n"
    "    if event.get('how') == 'exit': sys.exit(3)\n"
    "    return 'text' if event.get('how') == 'text' else {'event': event, 'arn': context.invoked_function_arn}\n"
)
FIGURE = r"[0-9a-f]{8}-[0-9a-f-]{27}|\d+(\.\d+)?(?= (ms|MB))"


def invoke(node, *words):
    done = subprocess.run([os.environ["FAASNAP_BIN"], "--home", node.home, "invoke", *words], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


def comparable(result):
    """Without identifiers and figures."""
    code, out, err = result
    if out.startswith('{\n  "request_id"'):
        report = json.loads(out)
        out = {name: value if name in ("failed", "payload", "from") else type(value) for name, value in report.items()}
        out["payload"] = re.sub(FIGURE, "N", json.dumps(out["payload"]))
    else:
        out = re.sub(FIGURE, "N", out)
    return code, out, re.sub(FIGURE, "N", err)


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    # Every instance is cold, with a node as without one.
    node = Node(tmp_path_factory.mktemp("home"), "--no-automatic-snapshots", "--keep-alive", "0", "--account", "000000000000", "--grace", "0")
    client = node.client()
    broken = python("print('before')\nraise RuntimeError('at import')\n")
    for name, code in [("both", CODE), ("broken", broken)]:
        client.create_function(FunctionName=name, Runtime="python3.11", Handler="app.handler", Role=ROLE, Code={"ZipFile": code}, MemorySize=256)
        client.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig={"Delay": 0.1})
    yield node
    if node.process.poll() is None:
        assert node.stop() == 0


LINES = [
    ["both"],
    ["both", "--payload", '{"lines": 1000}', "--log"],
    ["both", "--payload", '{"lines": 3}', "--log", "--json"],
    ["both", "--payload", '{"how": "raise"}', "--log", "--json"],
    ["both", "--payload", '{"how": "exit"}', "--log", "--json"],
    ["both", "--payload", '{"how": "text"}', "--json"],
    ["broken", "--json"],
    ["missing", "--json"],
    ["both", "--payload", "{"],
]


def test_the_same_line_says_the_same(node):
    with_node = [invoke(node, *line) for line in LINES]
    assert node.stop() == 0
    alone = [invoke(node, *line) for line in LINES]
    node.start()
    for line, one, other in zip(LINES, with_node, alone):
        assert comparable(one) == comparable(other), line
    # All of a long log, and what was written before the invocation.
    assert len(with_node[1][2]) > 90_000 and with_node[1][2].startswith("imported\n"), with_node[1][2][:200]


def test_a_broken_function_has_all_of_its_log(node):
    code, out, err = invoke(node, "broken", "--log")
    assert code == 1 and "at import" in out and err.count("before") == 2, err


def test_a_warm_instance_is_called_warm(node):
    assert node.stop() == 0
    options, node.options = node.options, ("--no-automatic-snapshots", "--grace", "0")
    node.start()
    reports = [json.loads(invoke(node, "both", "--json")[1]) for _ in range(2)]
    assert [report["from"] for report in reports] == ["cold", "warm"]
    assert all(report["timeline"] for report in reports)
    assert node.stop() == 0
    node.options = options
    node.start()
