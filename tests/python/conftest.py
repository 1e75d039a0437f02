"""A node for the tests, with functions in it."""

import io
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import zipfile

import boto3
import botocore.config
import pytest

from model import Checker

ROLE = "arn:aws:iam::000000000000:role/r"
RUNTIMES = ("python3.11", "provided.al2023", "nodejs")


def archive(files, modes=None):
    """A zip of names and texts."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target:
        for name, text in files.items():
            entry = zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))
            entry.external_attr = ((modes or {}).get(name, 0o644) | 0o100000) << 16
            target.writestr(entry, text)
    return out.getvalue()


def python(code):
    return archive({"app.py": code})


HELLO = python(
    "import os\n"
    "def handler(event, context):\n"
    "    return {'event': event, 'id': context.aws_request_id, 'arn': context.invoked_function_arn,\n"
    "            'version': context.function_version, 'left': context.get_remaining_time_in_millis(),\n"
    "            'context': context.client_context and context.client_context.custom,\n"
    "            'type': os.environ['AWS_LAMBDA_INITIALIZATION_TYPE'], 'greeting': os.environ.get('GREETING')}\n"
)


class Node:
    """A running `faasnap serve`."""

    def __init__(self, home, *options, fresh=True, before=()):
        self.home = pathlib.Path(home)
        self.options, self.before = options, before
        if fresh:
            self.faasnap("function", "list")
            for runtime in RUNTIMES:
                source = pathlib.Path(os.environ["FAASNAP_TEST_HOME"]) / "runtimes" / runtime
                subprocess.run(["cp", "-al", source, self.home / "runtimes" / runtime], check=True)
        self.start()

    def faasnap(self, *words):
        done = subprocess.run([os.environ["FAASNAP_BIN"], "--home", self.home, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self):
        self.log = open(self.home / "serve.log", "ab")
        command = [*self.before, os.environ["FAASNAP_BIN"], "--home", self.home, "serve", "--listen", "127.0.0.1:0", *self.options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True)
        first = self.process.stdout.readline()
        found = re.search(r"http://\S+", first)
        assert found, f"{first}{(self.home / 'serve.log').read_text()}"
        self.endpoint = found.group()
        self.line = self.process.stdout.readline().strip()

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def keys(self):
        text = (self.home / "credentials").read_text()
        return re.findall(r"= (\S+)", text)

    def client(self, **config):
        key, secret = self.keys()
        client = boto3.client(
            "lambda",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            config=botocore.config.Config(retries={"total_max_attempts": 1}, read_timeout=60, **config),
        )
        return client


def below(folder):
    """Everything below a folder, while things come and go there."""
    return [pathlib.Path(parent) / name for parent, folders, files in os.walk(folder) for name in folders + files]


def children(node):
    """The processes that the node has started and that have not ended."""
    texts = []
    for task in pathlib.Path(f"/proc/{node.process.pid}/task").iterdir():
        try:
            texts.append((task / "children").read_text())
        except (FileNotFoundError, ProcessLookupError):
            # A thread that has ended meanwhile.
            pass
    return [int(pid) for text in texts for pid in text.split()]


@pytest.fixture(scope="session")
def node():
    with tempfile.TemporaryDirectory() as home:
        node = Node(home, "--grace", "0")
        yield node
        if node.process.poll() is None:
            assert node.stop() == 0, (node.home / "serve.log").read_text()


@pytest.fixture(scope="session")
def checker():
    return Checker()


@pytest.fixture(scope="session")
def client(node, checker):
    client = node.client()
    checker.attach(client)
    return client


@pytest.fixture
def create(client):
    """Makes functions that are gone after the test."""
    made = []

    def make(name, code=HELLO, wait=True, **settings):
        settings = {"Runtime": "python3.11", "Handler": "app.handler", "Role": ROLE, "MemorySize": 256} | settings
        answer = client.create_function(FunctionName=name, Code={"ZipFile": code}, **settings)
        made.append(name)
        if wait:
            client.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig={"Delay": 0.1})
        return answer

    yield make
    for name in made:
        try:
            client.delete_function(FunctionName=name)
        except client.exceptions.ResourceNotFoundException:
            pass
