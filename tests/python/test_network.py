"""Functions with a network, and with credentials: over a node of their own, with botocore itself inside the function."""

import io
import json
import pathlib
import socket
import tempfile
import threading
import zipfile

import botocore
import pytest

from conftest import ROLE, Node

# What botocore needs to find credentials; its descriptions of AWS's services stay behind.
PACKAGES = ("botocore", "jmespath", "dateutil", "urllib3", "six.py")

ASKS = """
import os, botocore.session
def handler(event, context):
    found = botocore.session.get_session().get_credentials()
    if found is None:
        return None
    frozen = found.get_frozen_credentials()
    return {'key': frozen.access_key, 'token': frozen.token, 'method': found.method}
"""

REACHES = """
import socket
def handler(event, context):
    try:
        with socket.create_connection(('169.254.78.1', 53), timeout=5) as connection:
            return connection.recv(100).decode()
    except OSError as error:
        return type(error).__name__ + str(error.errno)
"""


def with_botocore(code):
    site = pathlib.Path(botocore.__file__).parent.parent
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("app.py", code)
        for package in PACKAGES:
            top = site / package
            for path in [top] if top.is_file() else sorted(top.rglob("*.py")):
                target.write(path, path.relative_to(site))
    return out.getvalue()


@pytest.fixture(scope="module")
def greeter():
    """A server on the loopback interface, which only name servers of the node may be on."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.sendall(b"hello")

        threading.Thread(target=greet, daemon=True).start()
        yield "127.0.0.1:%d" % server.getsockname()[1]


@pytest.fixture(scope="module")
def outward(greeter):
    with tempfile.TemporaryDirectory() as home:
        given = pathlib.Path(home) / "given.json"

        def write(key):
            fields = {"Version": 1, "AccessKeyId": key, "SecretAccessKey": "s", "SessionToken": "t-" + key}
            given.write_text(json.dumps(fields | {"Expiration": "2099-01-01T00:00:00Z"}))

        write("first")
        node = Node(home, "--function-credentials", str(given), "--name-server", greeter)
        node.give = write
        yield node
        assert node.stop() == 0, (node.home / "serve.log").read_text()


def made(client, name, code, **settings):
    settings = {"Runtime": "python3.11", "Handler": "app.handler", "Role": ROLE, "MemorySize": 256, "Timeout": 30} | settings
    client.create_function(FunctionName=name, Code={"ZipFile": code}, **settings)
    client.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig={"Delay": 0.1})


def answer(client, name, **more):
    reply = client.invoke(FunctionName=name, **more)
    payload = json.loads(reply["Payload"].read())
    assert "FunctionError" not in reply, payload
    return payload


def test_botocore_in_a_function_finds_credentials(outward):
    client = outward.client()
    made(client, "asks", with_botocore(ASKS), SnapStart={"ApplyOn": "PublishedVersions"})
    assert answer(client, "asks") == {"key": "first", "token": "t-first", "method": "env"}
    version = client.publish_version(FunctionName="asks")["Version"]
    client.get_waiter("published_version_active").wait(FunctionName="asks", Qualifier=version, WaiterConfig={"Delay": 0.1})
    outward.give("second")
    expected = {"key": "second", "token": "t-second", "method": "container-role"}
    assert answer(client, "asks", Qualifier=version) == expected


def test_a_tag_switches_the_network_on_and_off(outward):
    client = outward.client()
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as target:
        target.writestr("app.py", REACHES)
    with pytest.raises(client.exceptions.InvalidParameterValueException, match="faasnap:network"):
        made(client, "reaches", code.getvalue(), Tags={"faasnap:network": "everything"})
    made(client, "reaches", code.getvalue())
    arn = client.get_function(FunctionName="reaches")["Configuration"]["FunctionArn"]
    unreachable = "OSError101"
    assert answer(client, "reaches") == unreachable
    client.tag_resource(Resource=arn, Tags={"faasnap:network": "outbound"})
    assert answer(client, "reaches") == "hello"
    client.untag_resource(Resource=arn, TagKeys=["faasnap:network"])
    assert answer(client, "reaches") == unreachable
