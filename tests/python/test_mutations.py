"""Thousands of broken requests: the node answers each as AWS would, and is the same node afterwards.

FAASNAP_TEST_MUTATIONS says how many (10000), FAASNAP_TEST_SEED from which seed (1). A request that fails is printed with its
number; FAASNAP_TEST_FIRST=number FAASNAP_TEST_MUTATIONS=1 makes that one alone.
"""

import concurrent.futures
import http.client
import json
import os
import pathlib
import random
import re
import socket
import time

import boto3
import botocore.auth
import botocore.awsrequest
import botocore.config
import botocore.credentials
import pytest

from conftest import HELLO, ROLE, Node, children
from model import service
from mutations import CHANGED, STEADY, cases

COUNT = int(os.environ.get("FAASNAP_TEST_MUTATIONS", "10000"))
SEED = int(os.environ.get("FAASNAP_TEST_SEED", "1"))
FIRST = int(os.environ.get("FAASNAP_TEST_FIRST", "0"))
# Requests under way at once, and between two looks at whether the functions are still there.
AT_ONCE, ROUND = 8, 500
# Nothing takes as long as this: an answer that has not come by then does not come.
HANG = 60


@pytest.fixture(scope="module")
def lenient(tmp_path_factory):
    """A node that lets everybody in, so that requests get past the signature, and ends idle instances soon."""
    node = Node(tmp_path_factory.mktemp("home"), "--auth", "none", "--keep-alive", "1")
    yield node
    assert node.stop() == 0, (node.home / "serve.log").read_text()[-4000:]


def anyone(node):
    config = botocore.config.Config(retries={"total_max_attempts": 3}, read_timeout=60)
    return boto3.client("lambda", endpoint_url=node.endpoint, region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b", config=config)


def send(node, case):
    """Status, headers and body of the answer; None when the node closed without one."""
    host, port = node.endpoint.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=HANG) as connection:
        try:
            connection.sendall(case.raw)
            if case.framing:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            # It has seen enough; what it says of it may still be there to read.
            pass
        answer = http.client.HTTPResponse(connection, method=case.method)
        try:
            answer.begin()
            return answer.status, answer.headers, answer.read()
        except (ConnectionResetError, http.client.BadStatusLine, http.client.IncompleteRead):
            return None


def problem(case, answer):
    """What is wrong with an answer, if anything is."""
    if answer is None:
        return None if case.framing else "no answer"
    status, headers, body = answer
    if status >= 500:
        named = {(shape.metadata.get("error", {}).get("httpStatusCode"), shape.name) for shape in service().operation_model(case.operation).error_shapes}
        # The model names ServiceException (500) for everything: the node's own fault is never in order here.
        if (status, headers.get("x-amzn-errortype")) not in named or status == 500:
            return f"status {status}: {body[:300]}"
    if b"<html" in body[:200].lower() or "html" in headers.get("content-type", ""):
        return f"HTML: {body[:200]}"
    # What is no request at all has no operation either, whose errors could have a body.
    if not body and (status in (414, 431) or (case.framing and status >= 400)):
        return None
    if not headers.get("x-amzn-requestid"):
        return "no request id"
    if status >= 400 and case.method != "HEAD":
        try:
            error = json.loads(body)
        except ValueError:
            return f"status {status} and no JSON: {body[:300]}"
        if not headers.get("x-amzn-errortype") or not isinstance(error.get("message", error.get("Message")), str):
            return f"an error without its type or text: {body[:300]}"
    return None


def held(node):
    """Descriptors, processes below it, and MiB of the node."""
    process = pathlib.Path(f"/proc/{node.process.pid}")
    memory = int(re.search(r"VmRSS:\s+(\d+)", (process / "status").read_text()).group(1)) // 1024
    return len(list((process / "fd").iterdir())), len(children(node)), memory


def ensure(client):
    """The functions, and of each that is changed a version and an alias: whatever the requests have made of them."""
    for name in (STEADY, *CHANGED):
        try:
            client.create_function(FunctionName=name, Runtime="python3.11", Handler="app.handler", Role=ROLE, Code={"ZipFile": HELLO}, MemorySize=256)
        except client.exceptions.ResourceConflictException:
            pass
    for name in CHANGED:
        client.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig={"Delay": 0.1})
        try:
            version = client.publish_version(FunctionName=name)["Version"]
            client.create_alias(FunctionName=name, Name="live", FunctionVersion=version)
        except client.exceptions.ResourceConflictException:
            pass


def good(client):
    answer = client.invoke(FunctionName=STEADY, Payload=b'{"still": "here"}')
    assert json.load(answer["Payload"])["event"] == {"still": "here"}


def settled(node, most):
    """What the node holds once its instances have ended: `most` descriptors and processes, or what there is after a while."""
    for _ in range(1200):
        now = held(node)
        if now[0] <= most[0] and now[1] <= most[1]:
            break
        time.sleep(0.1)
    return now


def quiet_start(node, client):
    ensure(client)
    good(client)
    # The instances end after a second, and spare workers come: at rest is what stays the same for four seconds.
    last, same = None, 0
    while same < 40:
        now = held(node)[:2]
        same = same + 1 if now == last else 0
        last = now
        time.sleep(0.1)
    return held(node)


def test_no_broken_request_hurts(lenient):
    client = anyone(lenient)
    before, after_first, failures, seen = quiet_start(lenient, client), None, [], {}
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        for first in range(FIRST, FIRST + COUNT, ROUND):
            ensure(client)
            asked = list(cases(SEED, first, min(ROUND, FIRST + COUNT - first)))
            for case, answer in zip(asked, pool.map(lambda case: send(lenient, case), asked)):
                seen[answer and answer[0]] = seen.get(answer and answer[0], 0) + 1
                if wrong := problem(case, answer):
                    failures.append(f"{wrong}\n  {case}")
            assert lenient.process.poll() is None, "the node has ended"
            after_first = after_first or held(lenient)
    print(f"{COUNT} requests from seed {SEED}: {dict(sorted(seen.items(), key=str))}")
    assert not failures, f"{len(failures)} of {COUNT} (seed {SEED}):\n" + "\n".join(failures[:20])
    good(client)
    descriptors, processes, memory = settled(lenient, before)
    assert descriptors <= before[0] and processes <= before[1], f"before {before}, after {(descriptors, processes, memory)}"
    assert memory < after_first[2] + 64, f"MiB after the first {ROUND}: {after_first[2]}, after all: {memory}"
    log = (lenient.home / "serve.log").read_text()
    assert "panicked" not in log and "a defect" not in log, log[-4000:]
    if COUNT >= 5000:
        assert {200, 201, 202, 204, 400, 404, 409} <= set(seen), f"hardly anything got through: {seen}"


def test_no_broken_signature_gets_in(node):
    """Each request is signed, and then changed: none may be done. The ones that are left as they are may."""
    key, secret = node.keys()
    signer = botocore.auth.SigV4Auth(botocore.credentials.Credentials(key, secret), "lambda", "us-east-1")
    host = node.endpoint.removeprefix("http://")
    for index in range(500):
        rng = random.Random(f"{SEED}/signature/{index}")
        request = botocore.awsrequest.AWSRequest("GET", f"{node.endpoint}/2015-03-31/functions?MaxItems=5", headers={"Host": host})
        signer.add_auth(request)
        headers = dict(request.headers)
        changed = rng.choice(("nothing", "Authorization", "Authorization", "Authorization", "X-Amz-Date", "Host", "query", "without"))
        path = "/2015-03-31/functions?MaxItems=5"
        if changed == "query":
            path = rng.choice((path[:-1] + "6", path + "&Marker=a", "/2015-03-31/functions", path.replace("2015", "2016")))
        elif changed == "without":
            del headers[rng.choice(("Authorization", "X-Amz-Date"))]
        elif changed != "nothing":
            text = list(headers[changed])
            at = rng.randrange(len(text))
            # Lower case hexadecimal digits in other places than the signature, too; a space would be trimmed.
            text[at] = rng.choice([other for other in "0af:/=,~" if other != text[at]])
            headers[changed] = "".join(text)
        connection = http.client.HTTPConnection(host, timeout=HANG)
        connection.putrequest("GET", path, skip_host=True)
        for name, given in headers.items():
            connection.putheader(name, given)
        connection.endheaders()
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        shown = f"{index}: {changed}: {path} {headers}: {answer.status} {body[:300]}"
        if changed == "nothing":
            assert answer.status == 200, shown
        else:
            assert answer.status in (400, 403, 404), shown
            assert json.loads(body) and answer.headers["x-amzn-errortype"], shown
