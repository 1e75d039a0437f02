"""Other clients, and what no client sends."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import urllib.error
import urllib.request

import boto3
import pytest

import model
from conftest import HELLO, ROLE, Node
from test_functions import refused


def shell(node, command, **environment):
    # The line that `faasnap serve` prints for its users to copy sets what is needed.
    settings = dict(re.findall(r"(\w+)=(\S+)", node.line))
    # Some of AWS's clients read one name of it, some the other.
    settings["AWS_REGION"] = settings["AWS_DEFAULT_REGION"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | settings | environment, shell=isinstance(command, str))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def aws(node, *words):
    program = pathlib.Path(os.sys.executable).parent / "aws"
    return shell(node, [program, *words], AWS_PAGER="")


def test_the_printed_line_works(node):
    folder = pathlib.Path(os.sys.executable).parent
    assert "Functions" in json.loads(shell(node, node.line, PATH=f"{folder}:{os.environ['PATH']}", AWS_PAGER=""))


def test_the_aws_cli_deploys_and_invokes(node, tmp_path):
    (tmp_path / "code.zip").write_bytes(HELLO)
    aws(node, "lambda", "create-function", "--function-name", "cli", "--runtime", "python3.11", "--handler", "app.handler", "--role", ROLE, "--zip-file", f"fileb://{tmp_path}/code.zip")
    aws(node, "lambda", "wait", "function-active-v2", "--function-name", "cli")
    out = tmp_path / "out.json"
    answer = aws(node, "lambda", "invoke", "--function-name", "cli", "--payload", '{"a": 1}', str(out))
    assert json.loads(answer)["StatusCode"] == 200
    assert json.loads(out.read_text())["event"] == {"a": 1}
    aws(node, "lambda", "delete-function", "--function-name", "cli")


def test_curl_signs_too(node):
    key, secret = node.keys()
    out = subprocess.run(["curl", "-sS", "--aws-sigv4", "aws:amz:us-east-1:lambda", "--user", f"{key}:{secret}", f"{node.endpoint}/2015-03-31/functions"], capture_output=True, text=True)
    assert "Functions" in json.loads(out.stdout), out.stderr


def test_the_command_line_sees_what_clients_made(node, client, create):
    create("both")
    shown = json.loads(node.faasnap("function", "show", "both", "--json"))
    assert shown["config"]["handler"] == "app.handler"
    # By way of the node's socket: the instance is the node's, and warm by then.
    client.invoke(FunctionName="both")
    answer = json.loads(node.faasnap("invoke", "both", "--payload", '{"b": 2}'))
    assert answer["event"] == {"b": 2}
    metrics = raw(node, "GET", "/_/metrics")[2].decode()
    assert re.search(r'faasnap_invocations_total\{[^}]*function="both"[^}]*\} 2', metrics), metrics
    assert "START RequestId" in node.faasnap("logs", "both")
    node.faasnap("function", "rm", "both")
    assert refused(client.invoke, FunctionName="both")[2] == 404


def raw(node, method, path, headers=None, body=None):
    request = urllib.request.Request(node.endpoint + path, data=body, method=method, headers=headers or {})
    try:
        answer = urllib.request.urlopen(request)
    except urllib.error.HTTPError as error:
        answer = error
    return answer.status, answer.headers.get("x-amzn-errortype"), answer.read()


def test_without_a_good_signature_nobody_gets_in(node):
    status, kind, body = raw(node, "GET", "/2015-03-31/functions")
    assert (status, kind) == (403, "MissingAuthenticationTokenException")
    assert json.loads(body)["message"]
    key, _ = node.keys()
    for name, wrong in [("InvalidSignatureException", (key, "wrong")), ("UnrecognizedClientException", ("AKIANOBODY", "wrong"))]:
        client = boto3.client("lambda", endpoint_url=node.endpoint, region_name="us-east-1", aws_access_key_id=wrong[0], aws_secret_access_key=wrong[1])
        assert refused(client.list_functions)[0] == name


def test_the_node_s_own_paths(node):
    assert raw(node, "GET", "/_/health")[0] == 200
    assert json.loads(raw(node, "GET", "/_/ready")[2]) == {"ready": True}
    for method, path in [("GET", "/"), ("GET", "/_/nothing"), ("PATCH", "/2015-03-31/functions"), ("GET", "/_/code/x")]:
        status, kind, body = raw(node, method, path)
        assert status in (403, 404) and kind and json.loads(body), path


def test_operations_that_are_not_offered_say_so(node, client, checker):
    """Every operation of the model: none hangs, none answers 5xx or something else than JSON."""
    for name in model.service().operation_names:
        operation = model.service().operation_model(name)
        arguments = {}
        for member in operation.input_shape.required_members if operation.input_shape else []:
            arguments[member] = example(operation.input_shape.members[member])
        try:
            getattr(client, client_method(client, name))(**arguments)
        except client.exceptions.ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            assert 400 <= status < 500, f"{name}: {status}"


def client_method(client, operation):
    return next(method for method, name in client.meta.method_to_api_mapping.items() if name == operation)


def example(shape):
    kind = shape.type_name
    if kind == "structure":
        return {name: example(shape.members[name]) for name in shape.required_members}
    if kind == "list":
        return [example(shape.member)] * max(1, shape.metadata.get("min", 1))
    if kind == "map":
        return {}
    if kind in ("integer", "long"):
        return shape.metadata.get("min", 1)
    if kind in ("float", "double"):
        return 1.0
    if kind == "timestamp":
        return 0
    if kind == "boolean":
        return False
    if kind == "blob":
        return b"x"
    return shape.enum[0] if shape.enum else "x" * max(2, shape.metadata.get("min", 2))


def test_the_table_of_operations_is_botocore_s():
    source = pathlib.Path(__file__).parents[2] / "crates/lambda-api/src/operation.rs"
    rows = re.findall(r'^\s+(\w+), "(\w+)", "(\S+)", (\d+);', source.read_text(), re.M)
    ours = {name: (method, path, int(status)) for name, method, path, status in rows}
    theirs = {}
    for name in model.service().operation_names:
        http = model.service().operation_model(name).http
        status = 204 if name == "DeleteFunction" else http.get("responseCode", 200)
        theirs[name] = (http["method"], http["requestUri"], status)
    # A newer botocore may know more; what both know is the same, and we know nothing else.
    assert {name: ours[name] for name in ours if name in theirs} == {name: theirs[name] for name in ours if name in theirs}
    assert set(ours) <= set(theirs)


def test_what_was_acknowledged_survives_a_kill(tmp_path):
    node = Node(tmp_path, "--concurrency", "200")
    client = node.client()
    for number in range(5):
        client.create_function(FunctionName=f"kept-{number}", Runtime="python3.11", Handler="app.handler", Role=ROLE, Code={"ZipFile": HELLO}, MemorySize=256)
    version = client.publish_version(FunctionName="kept-0")["Version"]
    client.create_alias(FunctionName="kept-0", Name="live", FunctionVersion=version)
    node.kill()
    node.start()
    client = node.client()
    names = [function["FunctionName"] for function in client.list_functions()["Functions"]]
    assert names == [f"kept-{number}" for number in range(5)]
    for name in names:
        client.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig={"Delay": 0.1})
    assert json.load(client.invoke(FunctionName="kept-0:live")["Payload"])["version"] == version
    assert node.stop() == 0
    with pytest.raises(AssertionError):
        node.faasnap("serve", "--auth", "none", "--listen", "0.0.0.0:0")


def test_another_client_library(node, tmp_path, create):
    """AWS's own client for JavaScript, from npm."""
    if not shutil.which("npm"):
        pytest.skip("npm is not here")
    folder = pathlib.Path(os.environ.get("FAASNAP_TEST_NPM", tmp_path))
    if not (folder / "node_modules/@aws-sdk/client-lambda").exists():
        subprocess.run(["npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", folder, "@aws-sdk/client-lambda@3"], check=True)
    create("javascript")
    script = folder / "test.mjs"
    script.write_text("""
import { LambdaClient, InvokeCommand, GetFunctionCommand, InvokeWithResponseStreamCommand } from "@aws-sdk/client-lambda";
const client = new LambdaClient({});
const answer = await client.send(new InvokeCommand({ FunctionName: "javascript", Payload: JSON.stringify({ a: 1 }) }));
const result = JSON.parse(Buffer.from(answer.Payload).toString());
if (result.event.a !== 1 || answer.ExecutedVersion !== "$LATEST") throw new Error(JSON.stringify(result));
const stream = await client.send(new InvokeWithResponseStreamCommand({ FunctionName: "javascript" }));
let pieces = 0, complete = false;
for await (const event of stream.EventStream) { if (event.PayloadChunk) pieces++; if (event.InvokeComplete) complete = true; }
if (!pieces || !complete) throw new Error("no stream");
try {
  await client.send(new GetFunctionCommand({ FunctionName: "absent" }));
  throw new Error("absent was found");
} catch (error) {
  if (error.name !== "ResourceNotFoundException") throw error;
}
console.log("good");
""")
    assert shell(node, ["node", script]).strip() == "good"
