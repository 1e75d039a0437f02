"""Asynchronous events: none is lost, and what becomes of them arrives where it was to be sent.

FAASNAP_TEST_EVENTS says how many events go through the node that is killed (10000).
"""

import http.client
import json
import os
import re
import sqlite3
import threading
import time
import urllib.request

import pytest

from conftest import ROLE, Node, python
from test_mutations import anyone

COUNT = int(os.environ.get("FAASNAP_TEST_EVENTS", "10000"))
SENDERS = 6
# Patience for a loaded machine; nothing waits for it to pass.
LONG = 300
TELLING = python("def handler(event, context):\n    print('did', event['n'])\n    if event['n'] < 0:\n        raise ValueError('no')\n")
HEARING = python("import json\ndef handler(event, context):\n    print('heard', json.dumps(event))\n")


def make(client, name, code, **settings):
    client.create_function(FunctionName=name, Runtime="python3.11", Handler="app.handler", Role=ROLE, Code={"ZipFile": code}, MemorySize=256, **settings)
    client.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig={"Delay": 0.1})


def metric(node, name):
    text = urllib.request.urlopen(node.endpoint + "/_/metrics").read().decode()
    return float(re.search(rf"^faasnap_{name} (\S+)$", text, re.M).group(1))


def logged(node, function, pattern):
    """What the function's log has, in all its files."""
    texts = [path.read_text() for path in sorted((node.home / "logs" / function).iterdir())]
    return re.findall(pattern, "".join(texts), re.M)


def wait_for(what, is_so):
    for _ in range(LONG * 10):
        if is_so():
            return
        time.sleep(0.1)
    raise AssertionError(f"{what} has not come in {LONG} s")


class Senders:
    """Clients that send each event until it is acknowledged, whatever happens to the node."""

    def __init__(self, node):
        self.node, self.acknowledged, self.lock = node, set(), threading.Lock()
        self.numbers = iter(range(COUNT))
        self.threads = [threading.Thread(target=self.send, daemon=True) for _ in range(SENDERS)]
        for thread in self.threads:
            thread.start()

    def send(self):
        connection = None
        while (number := self.next()) is not None:
            while True:
                try:
                    if connection is None:
                        connection = http.client.HTTPConnection(self.node.endpoint.removeprefix("http://"), timeout=60)
                    connection.request("POST", "/2015-03-31/functions/telling/invocations", json.dumps({"n": number}), {"X-Amz-Invocation-Type": "Event"})
                    answer = connection.getresponse()
                    answer.read()
                    assert answer.status == 202, answer.status
                    break
                except (OSError, http.client.HTTPException):
                    # The node is down: it is there again soon, at another port.
                    connection = None
                    time.sleep(0.05)
            with self.lock:
                self.acknowledged.add(number)

    def next(self):
        with self.lock:
            return next(self.numbers, None)


def test_no_acknowledged_event_is_lost_by_killing_the_node(tmp_path):
    node = Node(tmp_path, "--auth", "none")
    try:
        make(anyone(node), "telling", TELLING)
        senders = Senders(node)
        for kill in (1, 2, 3):
            wait_for("acknowledgements", lambda: len(senders.acknowledged) >= COUNT * kill // 4)
            node.kill()
            node.start()
        for thread in senders.threads:
            thread.join(LONG)
        assert len(senders.acknowledged) == COUNT
        wait_for("the end of all events", lambda: metric(node, "events_queued") == 0)
        assert node.stop() == 0, (node.home / "serve.log").read_text()[-4000:]
        done = [int(number) for number in logged(node, "telling", r"did (\d+)$")]
        missing = senders.acknowledged - set(done)
        print(f"{COUNT} events, {len(done)} executions, 3 kills")
        assert not missing, f"{len(missing)} were acknowledged and never executed, as {sorted(missing)[:10]}"
        assert len(done) < COUNT * 1.5, "executed again is what was under way at a kill, and no more"
    finally:
        if node.process.poll() is None:
            node.kill()


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    node = Node(tmp_path_factory.mktemp("home"), "--auth", "none")
    client = anyone(node)
    make(client, "hearing", HEARING)
    make(client, "telling", TELLING)
    yield node, client
    assert node.stop() == 0, (node.home / "serve.log").read_text()[-4000:]


def heard(node, number):
    """The record that has come to the destination for an event."""
    found = []

    def look():
        # The reading is of a file that is being written: what is not whole yet is read the next time.
        lines = logged(node, "hearing", r"heard (\{.*\})$") if (node.home / "logs/hearing").exists() else []
        found[:] = [record for record in map(json.loads, lines) if record.get("requestPayload", record).get("n") == number]
        return found

    wait_for(f"the record of event {number}", look)
    return found[0]


def test_results_arrive_at_the_functions_they_were_to_go_to(events):
    node, client = events
    arn = client.get_function_configuration(FunctionName="hearing")["FunctionArn"]
    client.put_function_event_invoke_config(
        FunctionName="telling", MaximumRetryAttempts=0, DestinationConfig={"OnSuccess": {"Destination": arn}, "OnFailure": {"Destination": arn}})
    client.invoke(FunctionName="telling", InvocationType="Event", Payload=b'{"n": 7}')
    client.invoke(FunctionName="telling", InvocationType="Event", Payload=b'{"n": -7}')
    good, bad = heard(node, 7), heard(node, -7)
    assert good["requestContext"]["condition"] == "Success" and good["responseContext"]["statusCode"] == 200
    assert good["requestContext"]["functionArn"].endswith(":function:telling:$LATEST")
    assert (bad["requestContext"]["condition"], bad["requestContext"]["approximateInvokeCount"]) == ("RetriesExhausted", 1)
    assert bad["responseContext"]["functionError"] == "Unhandled" and bad["responsePayload"]["errorType"] == "ValueError"
    client.delete_function_event_invoke_config(FunctionName="telling")


def test_events_that_fail_for_good_go_to_the_dead_letter_target(events):
    node, client = events
    arn = client.get_function_configuration(FunctionName="hearing")["FunctionArn"]
    make(client, "dead", TELLING, DeadLetterConfig={"TargetArn": arn})
    client.put_function_event_invoke_config(FunctionName="dead", MaximumRetryAttempts=0)
    client.invoke(FunctionName="dead", InvocationType="Event", Payload=b'{"n": -8}')
    assert heard(node, -8)["requestContext"]["functionArn"].endswith(":function:dead:$LATEST")


def test_events_that_have_become_too_old_are_not_executed(events):
    node, client = events
    arn = client.get_function_configuration(FunctionName="hearing")["FunctionArn"]
    make(client, "late", TELLING)
    client.put_function_event_invoke_config(
        FunctionName="late", MaximumEventAgeInSeconds=60, MaximumRetryAttempts=2, DestinationConfig={"OnFailure": {"Destination": arn}})
    client.put_function_concurrency(FunctionName="late", ReservedConcurrentExecutions=0)
    client.invoke(FunctionName="late", InvocationType="Event", Payload=b'{"n": 9}')
    wait_for("a refusal by the function's concurrency", lambda: metric(node, "events_put_off") >= 1)
    node.kill()
    # A minute passes.
    queue = sqlite3.connect(node.home / "events.sqlite")
    with queue:
        assert queue.execute("UPDATE events SET accepted_ms = accepted_ms - 61000, due_ms = 0").rowcount == 1
    queue.close()
    node.start()
    client = anyone(node)
    record = heard(node, 9)
    assert record["requestContext"]["condition"] == "EventAgeExceeded"
    assert not (node.home / "logs/late").exists() or logged(node, "late", r"did 9$") == []
