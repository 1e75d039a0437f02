"""Versions, their snapshots, aliases."""

import json
import os
import signal
import time

from conftest import HELLO, ROLE, Node, children, python
from test_functions import ARN, QUICK, refused


def call(client, name, **arguments):
    answer = client.invoke(FunctionName=name, **arguments)
    assert "FunctionError" not in answer, answer["Payload"].read()
    return json.load(answer["Payload"]), answer["ExecutedVersion"]


def test_a_version_stays_what_it_was(client, create):
    create("versioned")
    first = client.publish_version(FunctionName="versioned", Description="first")
    assert (first["Version"], first["FunctionArn"], first["State"]) == ("1", ARN + "versioned:1", "Active")
    assert client.publish_version(FunctionName="versioned")["Version"] == "1", "nothing has changed"
    wrong = refused(client.publish_version, FunctionName="versioned", CodeSha256="x")
    assert wrong[1].startswith("CodeSHA256 (x) is different from current CodeSHA256 in $LATEST (")
    code = python("def handler(event, context):\n    return {'version': 'two', 'arn': context.invoked_function_arn}\n")
    client.update_function_code(FunctionName="versioned", ZipFile=code)
    client.get_waiter("function_updated_v2").wait(FunctionName="versioned", WaiterConfig=QUICK)
    assert client.publish_version(FunctionName="versioned")["Version"] == "2"
    result, executed = call(client, "versioned", Qualifier="1")
    assert (result["version"], result["arn"], executed) == ("1", ARN + "versioned:1", "1")
    assert call(client, "versioned:2")[0]["version"] == "two"
    assert call(client, "versioned")[1] == "$LATEST"
    versions = client.list_versions_by_function(FunctionName="versioned")["Versions"]
    assert [version["Version"] for version in versions] == ["$LATEST", "1", "2"]
    client.delete_function(FunctionName="versioned", Qualifier="2")
    assert refused(client.invoke, FunctionName="versioned:2")[2] == 404
    published = client.create_function(FunctionName="published", Runtime="python3.11", Handler="app.handler", Role=first["Role"], Code={"ZipFile": HELLO}, Publish=True)
    assert published["Version"] == "1"
    client.delete_function(FunctionName="published")


def test_snap_start_makes_a_snapshot_of_a_version(client, create, node):
    create("snapped", SnapStart={"ApplyOn": "PublishedVersions"})
    version = client.publish_version(FunctionName="snapped")
    assert (version["State"], version["StateReasonCode"]) == ("Pending", "Creating")
    client.get_waiter("published_version_active").wait(FunctionName="snapped", Qualifier="1", WaiterConfig=QUICK)
    ready = client.get_function_configuration(FunctionName="snapped", Qualifier="1")
    assert ready["SnapStart"] == {"ApplyOn": "PublishedVersions", "OptimizationStatus": "On"}
    assert len(json.loads(node.faasnap("snapshot", "list", "snapped", "--json"))) == 1
    answer = client.invoke(FunctionName="snapped:1", LogType="Tail")
    result = json.load(answer["Payload"])
    assert (result["type"], result["version"]) == ("snap-start", "1")
    client.delete_function(FunctionName="snapped", Qualifier="1")
    assert json.loads(node.faasnap("snapshot", "list", "snapped", "--json")) == []


def test_a_version_that_can_not_initialise_has_failed(client, create):
    create("broken", python("raise RuntimeError('no start')\n"), SnapStart={"ApplyOn": "PublishedVersions"})
    client.publish_version(FunctionName="broken")
    for _ in range(200):
        state = client.get_function_configuration(FunctionName="broken", Qualifier="1")
        if state["State"] != "Pending":
            break
        time.sleep(0.1)
    assert (state["State"], state["StateReasonCode"]) == ("Failed", "FunctionError")
    assert "no start" in state["StateReason"]
    assert refused(client.invoke, FunctionName="broken:1")[0] == "ResourceConflictException"


def test_aliases_lead_to_versions(client, create):
    create("aliased")
    client.publish_version(FunctionName="aliased")
    alias = client.create_alias(FunctionName="aliased", Name="live", FunctionVersion="1", Description="d")
    assert alias["AliasArn"] == ARN + "aliased:live"
    assert refused(client.create_alias, FunctionName="aliased", Name="live", FunctionVersion="1")[:2] == (
        "ResourceConflictException", f"Alias already exists: {ARN}aliased:live")
    assert refused(client.get_alias, FunctionName="aliased", Name="dead")[1] == f"Cannot find alias arn: {ARN}aliased:dead"
    assert client.get_alias(FunctionName="aliased", Name="live")["RevisionId"] == alias["RevisionId"]
    result, executed = call(client, "aliased:live")
    assert (result["arn"], executed) == (ARN + "aliased:live", "1")
    client.update_function_configuration(FunctionName="aliased", Description="changed", Timeout=9)
    client.get_waiter("function_updated_v2").wait(FunctionName="aliased", WaiterConfig=QUICK)
    client.publish_version(FunctionName="aliased")
    shared = client.update_alias(FunctionName="aliased", Name="live", RoutingConfig={"AdditionalVersionWeights": {"2": 1.0}}, RevisionId=alias["RevisionId"])
    assert shared["RoutingConfig"] == {"AdditionalVersionWeights": {"2": 1.0}}
    assert call(client, "aliased:live")[1] == "2"
    assert refused(client.update_alias, FunctionName="aliased", Name="live", RevisionId=alias["RevisionId"])[2] == 412
    assert refused(client.update_alias, FunctionName="aliased", Name="live", RoutingConfig={"AdditionalVersionWeights": {"2": 1.5}})[0] == "ValidationException"
    assert refused(client.delete_function, FunctionName="aliased", Qualifier="2")[0] == "ResourceConflictException"
    assert [one["Name"] for one in client.list_aliases(FunctionName="aliased")["Aliases"]] == ["live"]
    assert client.get_function(FunctionName="aliased", Qualifier="live")["Configuration"]["Version"] == "1"
    client.delete_alias(FunctionName="aliased", Name="live")
    assert refused(client.invoke, FunctionName="aliased:live")[2] == 404


SLOW_START = python("import time\ntime.sleep(2)\ndef handler(event, context):\n    return 'started'\n")


def pending(node, client, name):
    """A version whose snapshot is being made at this moment."""
    client.create_function(FunctionName=name, Runtime="python3.11", Handler="app.handler", Role=ROLE, Code={"ZipFile": SLOW_START}, MemorySize=256, SnapStart={"ApplyOn": "PublishedVersions"})
    client.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig=QUICK)
    assert client.publish_version(FunctionName=name)["State"] == "Pending"


def becomes_active(node, client, name):
    client.get_waiter("published_version_active").wait(FunctionName=name, Qualifier="1", WaiterConfig=QUICK)
    assert client.invoke(FunctionName=name, Qualifier="1")["Payload"].read() == b'"started"'
    assert len(json.loads(node.faasnap("snapshot", "list", name, "--json"))) == 1
    # What the first invocation recorded is being put in its place.
    for _ in range(600):
        if not list((node.home / "staging").iterdir()):
            return
        time.sleep(0.1)
    raise AssertionError("something is left in staging/")


def test_a_snapshot_survives_the_end_of_the_node_and_of_its_worker(tmp_path):
    node = Node(tmp_path)
    client = node.client()
    pending(node, client, "stopped")
    assert node.stop() == 0, (node.home / "serve.log").read_text()
    node.start()
    client = node.client()
    becomes_active(node, client, "stopped")
    pending(node, client, "killed")
    node.kill()
    node.start()
    client = node.client()
    becomes_active(node, client, "killed")
    pending(node, client, "unlucky")
    time.sleep(1)
    for worker in children(node):
        os.kill(worker, signal.SIGKILL)
    becomes_active(node, client, "unlucky")
    assert node.stop() == 0


def test_a_restored_heap_is_out_of_the_collector_s_sight(client, create):
    """A collection would bring all of it from the snapshot, within some later invocation."""
    create("collects", python("import gc\ndef handler(event, context):\n    return gc.get_freeze_count()\n"), SnapStart={"ApplyOn": "PublishedVersions"})
    version = client.publish_version(FunctionName="collects")["Version"]
    client.get_waiter("published_version_active").wait(FunctionName="collects", Qualifier=version, WaiterConfig={"Delay": 0.1})
    assert json.load(client.invoke(FunctionName="collects", Qualifier=version)["Payload"]) > 1000
