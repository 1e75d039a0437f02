"""Mixed load on a node for a given time, and what the node holds before and after.

    FAASNAP_BIN=target/release/faasnap FAASNAP_TEST_HOME=target/test-home \\
        target/api-venv/bin/python tests/python/soak.py SECONDS [CLIENTS]

The load runs once for a short time, everything comes to rest, the node is measured; then it runs for SECONDS, and is measured
again. What the node holds must be the same, but for the memory that its allocator keeps. A line every minute shows whether that
grows without end.
"""

import concurrent.futures
import json
import os
import pathlib
import random
import re
import signal
import sys
import tempfile
import time

import boto3
import botocore.config
from botocore.exceptions import BotoCoreError, ClientError

from conftest import HELLO, ROLE, Node, below, children, python
from mutations import cases
from test_mutations import ensure, send

WARM_UP = 8
AT_ONCE = 6
# MiB that the allocator may keep beyond what it had: it was the same load before.
KEPT = 48
MANNERS = python(
    "import os, time\n"
    "def handler(event, context):\n"
    "    how = event.get('how')\n"
    "    if how == 'raise': raise ValueError('no')\n"
    "    if how == 'exit': os._exit(3)\n"
    "    if how == 'late': time.sleep(30)\n"
    "    if how == 'large': return 'x' * 3_000_000\n"
    "    if how == 'loud': print('x' * 100_000)\n"
    "    if how == 'files': open('/tmp/f', 'wb').write(b'x' * 5_000_000)\n"
    "    return event\n"
)


class Load:
    """One client's share; each step is one of the things that clients do."""

    def __init__(self, node, seed):
        self.node, self.rng, self.name = node, random.Random(seed), f"own-{seed}"
        config = botocore.config.Config(retries={"total_max_attempts": 1}, read_timeout=60)
        self.client = boto3.client("lambda", endpoint_url=node.endpoint, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b", config=config)
        self.steps, self.mutations = 0, cases(seed, 0, 10**9)

    def run(self, until):
        ways = [(self.warm, 30), (self.odd, 6), (self.stream, 4), (self.event, 8), (self.read, 6), (self.broken, 20), (self.life, 1), (self.kill, 1)]
        while time.monotonic() < until:
            way = self.rng.choices([way for way, _ in ways], [share for _, share in ways])[0]
            try:
                way()
            except (ClientError, BotoCoreError, OSError) as error:
                # Functions come and go under the load, workers are killed: an error is an answer. The node's own fault is not.
                response = getattr(error, "response", None) or {}
                status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
                # A call whose worker was killed before it had the event is told so: 500, since it surely did not run.
                killed = "the worker ended without an answer" in str(error)
                assert status < 500 or killed, f"{way.__name__}: {error}"
            self.steps += 1
        return self.steps

    def warm(self):
        answer = self.client.invoke(FunctionName="steady", Payload=json.dumps({"n": self.steps}), LogType=self.rng.choice(("None", "Tail")))
        body = json.load(answer["Payload"])
        assert "FunctionError" in answer or body["event"] == {"n": self.steps}, body

    def odd(self):
        how = self.rng.choice(("raise", "exit", "late", "large", "loud", "files"))
        self.client.invoke(FunctionName="manners", Payload=json.dumps({"how": how}))["Payload"].read()

    def stream(self):
        answer = self.client.invoke_with_response_stream(FunctionName="manners", Payload=json.dumps({"how": self.rng.choice(("large", "raise", "well"))}))
        for number, _ in enumerate(answer["EventStream"]):
            if number == 1 and self.rng.random() < 0.5:
                answer["EventStream"].close()
                break

    def event(self):
        self.client.invoke(FunctionName="manners", InvocationType="Event", Payload=json.dumps({"how": self.rng.choice(("well", "loud"))}))

    def read(self):
        self.client.list_functions(FunctionVersion="ALL", MaxItems=10)
        self.client.get_function(FunctionName="steady")

    def broken(self):
        case = next(self.mutations)
        if case.operation != "CreateFunction":
            send(self.node, case)

    def life(self):
        """A function from its making to its end, with a snapshot of a version in between."""
        self.client.create_function(FunctionName=self.name, Runtime="python3.11", Handler="app.handler", Role=ROLE, Code={"ZipFile": HELLO}, MemorySize=256,
                                    SnapStart={"ApplyOn": "PublishedVersions"})
        try:
            self.client.get_waiter("function_active_v2").wait(FunctionName=self.name, WaiterConfig={"Delay": 0.1})
            self.client.publish_version(FunctionName=self.name)
            self.client.get_waiter("published_version_active").wait(FunctionName=self.name, Qualifier="1", WaiterConfig={"Delay": 0.1, "MaxAttempts": 300})
            self.client.invoke(FunctionName=self.name, Qualifier="1")["Payload"].read()
            self.client.update_function_code(FunctionName=self.name, ZipFile=MANNERS)
            layer = self.client.publish_layer_version(LayerName=self.name, Content={"ZipFile": HELLO})["Version"]
            self.client.delete_layer_version(LayerName=self.name, VersionNumber=layer)
        finally:
            self.client.delete_function(FunctionName=self.name)

    def kill(self):
        """One of the workers is killed, whatever it does."""
        workers = children(self.node)
        if workers:
            try:
                os.kill(self.rng.choice(workers), signal.SIGKILL)
            except ProcessLookupError:
                pass


def groups(node):
    """The cgroups of the node's workers."""
    name = f"faasnap-worker-{node.process.pid}-"
    return sum(1 for folder in below("/sys/fs/cgroup") if folder.name.startswith(name) and folder.is_dir())


def held(node):
    """What a node has: by name."""
    process = pathlib.Path(f"/proc/{node.process.pid}")
    status = (process / "status").read_text()
    # The two functions that stay have snapshots with recordings that grow by themselves.
    files = [path for path in below(node.home) if not re.search(r"\.sqlite|serve\.log|/logs/|/snapshots/(steady|manners)", str(path))]
    return {
        "descriptors": len(list((process / "fd").iterdir())),
        "processes": len(children(node)),
        "cgroups": groups(node),
        "files": len(files),
        "mounts": len((process / "mounts").read_text().splitlines()),
        "MiB": int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) // 1024,
    }


def rest(node, goal=None):
    """Waits until nothing runs any more, and says what is held."""
    client = Load(node, -1).client
    for page in client.get_paginator("list_functions").paginate():
        for function in page["Functions"]:
            if function["FunctionName"] not in ("steady", "manners"):
                client.delete_function(FunctionName=function["FunctionName"])
    for layer in client.list_layers()["Layers"]:
        for version in client.list_layer_versions(LayerName=layer["LayerName"])["LayerVersions"]:
            client.delete_layer_version(LayerName=layer["LayerName"], VersionNumber=version["Version"])
    last, same = None, 0
    for _ in range(600):
        now = held(node)
        still = {name: now[name] for name in now if name != "MiB"}
        same = same + 1 if still == last else 0
        last = still
        if same >= (40 if goal is None else 10) and (goal is None or all(still[name] <= goal[name] for name in still)):
            break
        time.sleep(0.1)
    return now


def load(node, seconds, clients):
    begun = time.monotonic()
    until = begun + seconds
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        runs = [pool.submit(Load(node, seed).run, until) for seed in range(clients)]
        while concurrent.futures.wait(runs, timeout=60).not_done:
            print(f"{time.monotonic() - begun:.0f} s {held(node)}", flush=True)
        return sum(run.result() for run in runs)


def soak(home, seconds, clients=AT_ONCE):
    node = Node(home, "--auth", "none", "--keep-alive", "1", "--grace", "0")
    try:
        client = Load(node, -1).client
        ensure(client)
        client.create_function(FunctionName="manners", Runtime="python3.11", Handler="app.handler", Role=ROLE, Code={"ZipFile": MANNERS}, MemorySize=256, Timeout=1)
        client.get_waiter("function_active_v2").wait(FunctionName="manners", WaiterConfig={"Delay": 0.1})
        load(node, WARM_UP, clients)
        before = rest(node)
        steps = load(node, seconds, clients)
        after = rest(node, before)
        print(f"{steps} steps in {seconds} s\nbefore {before}\nafter  {after}", flush=True)
        grown = {name for name in before if after[name] > before[name] + (KEPT if name == "MiB" else 0)}
        log = (node.home / "serve.log").read_text()
        assert "panicked" not in log and "a defect" not in log, log[-4000:]
        assert not grown, f"grown: {grown}"
        assert node.stop() == 0
        assert groups(node) == 0, "cgroups are left after the node's end"
    finally:
        if node.process.poll() is None:
            node.kill()
    return before, after


def test_a_mixed_load_leaves_nothing_behind(tmp_path):
    soak(tmp_path, int(os.environ.get("FAASNAP_TEST_SOAK", "30")))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        soak(folder, *map(int, sys.argv[1:]))
