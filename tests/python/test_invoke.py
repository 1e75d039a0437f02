"""Invocations and what becomes of them."""

import base64
import json
import time

from conftest import archive, python
from test_functions import ARN, refused

FAILING = python(
    "import os, time\n"
    "def handler(event, context):\n"
    "    print('how:', event['how'])\n"
    "    match event['how']:\n"
    "        case 'raise': raise ValueError('no')\n"
    "        case 'sleep': time.sleep(10)\n"
    "        case 'exit': os._exit(7)\n"
    "        case 'large': return 'x' * 6291556\n"
    "    return event\n"
)


def test_events_and_contexts_arrive(client, create):
    create("invoked", Environment={"Variables": {"GREETING": "hi"}}, Timeout=20)
    context = base64.b64encode(json.dumps({"custom": {"a": "b"}}).encode()).decode()
    answer = client.invoke(FunctionName="invoked", Payload=b'{"x": [1, "\xc3\xa9"]}', ClientContext=context)
    result = json.load(answer["Payload"])
    assert (answer["StatusCode"], answer["ExecutedVersion"]) == (200, "$LATEST")
    assert result["event"] == {"x": [1, "é"]}
    assert result["context"] == {"a": "b"}
    assert result["arn"] == ARN + "invoked"
    assert result["greeting"] == "hi"
    assert 10_000 < result["left"] <= 20_000
    assert result["id"] == answer["ResponseMetadata"]["RequestId"]
    assert json.load(client.invoke(FunctionName="invoked")["Payload"])["event"] == {}
    arn = json.load(client.invoke(FunctionName="invoked", Qualifier="$LATEST")["Payload"])["arn"]
    assert arn == ARN + "invoked:$LATEST"
    dry = client.invoke(FunctionName="invoked", InvocationType="DryRun")
    assert dry["StatusCode"] == 204


def test_the_end_of_the_log_comes_along(client, create):
    create("logged", FAILING)
    answer = client.invoke(FunctionName="logged", Payload=b'{"how": "well"}', LogType="Tail")
    log = base64.b64decode(answer["LogResult"]).decode()
    request = answer["ResponseMetadata"]["RequestId"]
    assert f"START RequestId: {request} Version: $LATEST\n" in log
    assert "how: well\n" in log
    assert f"END RequestId: {request}\n" in log
    assert f"REPORT RequestId: {request}\tDuration: " in log and "Memory Size: 256 MB" in log


def test_failures_have_the_recorded_shapes(client, create):
    create("failing", FAILING, Timeout=3)

    def fail(how):
        answer = client.invoke(FunctionName="failing", Payload=json.dumps({"how": how}))
        assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
        return json.load(answer["Payload"]), answer["ResponseMetadata"]["RequestId"]

    raised, request = fail("raise")
    assert (raised["errorType"], raised["errorMessage"], raised["requestId"]) == ("ValueError", "no", request)
    assert raised["stackTrace"]
    late, request = fail("sleep")
    assert late == {"errorType": "Sandbox.Timedout", "errorMessage": f"RequestId: {request} Error: Task timed out after 3.00 seconds"}
    ended, request = fail("exit")
    assert ended == {"errorType": "Runtime.ExitError", "errorMessage": f"RequestId: {request} Error: Runtime exited with error: exit status 7"}
    large, _ = fail("large")
    assert large["errorType"] == "Function.ResponseSizeTooLarge"
    assert client.invoke(FunctionName="failing", Payload=b'{"how": "well"}')["Payload"].read() == b'{"how": "well"}'


def test_what_is_no_event_is_refused_before_anything_runs(client, create):
    create("strict")
    code, text, status = refused(client.invoke, FunctionName="strict", Payload=b"{no")
    assert (code, status) == ("InvalidRequestContentException", 400)
    assert text.startswith("Could not parse request body into json: Could not parse payload into json: ")
    assert refused(client.invoke, FunctionName="strict", ClientContext="%%")[0] == "InvalidRequestContentException"
    large = refused(client.invoke, FunctionName="strict", Payload=b'"' + b"x" * 6_291_456 + b'"')
    assert large == ("RequestEntityTooLargeException", "Request must be smaller than 6291456 bytes for the InvokeFunction operation", 413)


def test_reserved_concurrency_throttles(client, create):
    create("reserved")
    client.put_function_concurrency(FunctionName="reserved", ReservedConcurrentExecutions=0)
    code, text, status = refused(client.invoke, FunctionName="reserved")
    assert (code, text, status) == ("TooManyRequestsException", "Rate Exceeded.", 429)
    try:
        client.invoke(FunctionName="reserved")
    except client.exceptions.TooManyRequestsException as error:
        assert error.response["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"
    assert client.get_function_concurrency(FunctionName="reserved")["ReservedConcurrentExecutions"] == 0
    assert client.get_function(FunctionName="reserved")["Concurrency"] == {"ReservedConcurrentExecutions": 0}
    client.delete_function_concurrency(FunctionName="reserved")
    assert client.invoke(FunctionName="reserved")["StatusCode"] == 200
    assert refused(client.put_function_concurrency, FunctionName="reserved", ReservedConcurrentExecutions=901)[0] == "InvalidParameterValueException"


BOOTSTRAP = """#!/bin/sh
exit 3
"""


def test_streams_come_in_frames(client, create):
    create("streamed", FAILING)
    events = list(client.invoke_with_response_stream(FunctionName="streamed", Payload=b'{"how": "well"}', LogType="Tail")["EventStream"])
    body = b"".join(event["PayloadChunk"]["Payload"] for event in events if "PayloadChunk" in event)
    assert json.loads(body) == {"how": "well"}
    assert "END RequestId" in base64.b64decode(events[-1]["InvokeComplete"]["LogResult"]).decode()
    events = list(client.invoke_with_response_stream(FunctionName="streamed", Payload=b'{"how": "raise"}')["EventStream"])
    end = events[-1]["InvokeComplete"]
    assert json.loads(end["ErrorDetails"])["errorType"] == "ValueError" and end["ErrorCode"]


def test_a_function_that_can_not_start_says_so(client, create):
    create("unstartable", archive({"bootstrap": BOOTSTRAP}, {"bootstrap": 0o755}), Runtime="provided.al2023", Handler="x")
    answer = client.invoke(FunctionName="unstartable")
    assert answer["FunctionError"] == "Unhandled"
    assert json.load(answer["Payload"])["errorType"].startswith("Runtime.")


def test_events_are_queued_and_their_results_sent_on(client, create):
    create("destination", python("def handler(event, context):\n    print(event)\n    return 1\n"))
    create("source", FAILING)
    config = client.put_function_event_invoke_config(
        FunctionName="source", MaximumRetryAttempts=0, MaximumEventAgeInSeconds=60,
        DestinationConfig={"OnFailure": {"Destination": ARN + "destination"}, "OnSuccess": {"Destination": ARN + "destination"}})
    assert config["FunctionArn"] == ARN + "source:$LATEST"
    assert client.get_function_event_invoke_config(FunctionName="source")["MaximumRetryAttempts"] == 0
    changed = client.update_function_event_invoke_config(FunctionName="source", MaximumEventAgeInSeconds=70)
    assert (changed["MaximumRetryAttempts"], changed["MaximumEventAgeInSeconds"]) == (0, 70)
    assert len(client.list_function_event_invoke_configs(FunctionName="source")["FunctionEventInvokeConfigs"]) == 1
    answer = client.invoke(FunctionName="source", InvocationType="Event", Payload=b'{"how": "well"}')
    assert (answer["StatusCode"], answer["Payload"].read()) == (202, b"")
    large = refused(client.invoke, FunctionName="source", InvocationType="Event", Payload=b'"' + b"x" * (1 << 20) + b'"')
    assert large[2] == 413
    assert refused(client.invoke, FunctionName="absent", InvocationType="Event")[2] == 404
    client.delete_function_event_invoke_config(FunctionName="source")
    assert refused(client.get_function_event_invoke_config, FunctionName="source")[2] == 404


def test_warm_invocations_do_not_stall(client, create):
    create("warm")
    client.invoke(FunctionName="warm")
    began = time.monotonic()
    for _ in range(20):
        client.invoke(FunctionName="warm")
    # Nagle's algorithm against delayed acknowledgements costs 40 ms each: far more than all of this.
    print(f"20 warm invocations by boto3 took {time.monotonic() - began:.3f} s")
