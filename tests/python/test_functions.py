"""Functions come, change and go."""

import base64
import hashlib
import json
import urllib.error
import urllib.request

import pytest
from botocore.exceptions import ClientError

from conftest import HELLO, ROLE, archive, python

ARN = "arn:aws:lambda:us-east-1:000000000000:function:"
QUICK = {"Delay": 0.1, "MaxAttempts": 600}


def refused(call, **arguments):
    """Code, text and status of the error that a call ends with."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    error = caught.value.response
    return error["Error"]["Code"], error["Error"]["Message"], error["ResponseMetadata"]["HTTPStatusCode"]


def test_the_answer_to_create_is_as_recorded(client, create):
    answer = create("recorded", wait=False)
    digest = base64.b64encode(hashlib.sha256(HELLO).digest()).decode()
    expected = {
        "Architectures": ["x86_64"], "CodeSha256": digest, "CodeSize": len(HELLO), "Description": "",
        "EphemeralStorage": {"Size": 512}, "FunctionArn": ARN + "recorded", "FunctionName": "recorded",
        "Handler": "app.handler", "LoggingConfig": {"LogFormat": "Text", "LogGroup": "/aws/lambda/recorded"},
        "MemorySize": 256, "PackageType": "Zip", "Role": ROLE, "Runtime": "python3.11",
        "SnapStart": {"ApplyOn": "None", "OptimizationStatus": "Off"}, "State": "Pending",
        "StateReason": "The function is being created.", "StateReasonCode": "Creating", "Timeout": 3,
        "TracingConfig": {"Mode": "PassThrough"}, "Version": "$LATEST",
    }
    for member in ("ResponseMetadata", "RevisionId", "LastModified"):
        assert answer.pop(member)
    assert answer == expected
    for name in ("function_exists", "function_active_v2", "function_active", "function_updated_v2", "function_updated"):
        client.get_waiter(name).wait(FunctionName="recorded", WaiterConfig=QUICK)
    now = client.get_function_configuration(FunctionName="recorded")
    assert (now["State"], now["LastUpdateStatus"]) == ("Active", "Successful")
    assert "StateReason" not in now


def test_code_can_be_downloaded_without_a_signature_of_one_s_own(client, create):
    create("downloaded")
    location = client.get_function(FunctionName="downloaded")["Code"]["Location"]
    assert urllib.request.urlopen(location).read() == HELLO
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(location.replace("Expires=600", "Expires=60000"))
    assert caught.value.code == 403


def test_updates_go_through_their_states(client, create):
    create("updated")
    before = client.get_function_configuration(FunctionName="updated")
    code = python("def handler(event, context):\n    return 'new'\n")
    answer = client.update_function_code(FunctionName="updated", ZipFile=code)
    assert (answer["State"], answer["LastUpdateStatus"], answer["LastUpdateStatusReasonCode"]) == ("Active", "InProgress", "Creating")
    client.get_waiter("function_updated_v2").wait(FunctionName="updated", WaiterConfig=QUICK)
    assert client.invoke(FunctionName="updated")["Payload"].read() == b'"new"'
    stale = refused(client.update_function_code, FunctionName="updated", ZipFile=code, RevisionId=before["RevisionId"])
    assert (stale[0], stale[2]) == ("PreconditionFailedException", 412)
    dry = client.update_function_code(FunctionName="updated", ZipFile=HELLO, DryRun=True)
    assert dry["CodeSize"] == len(HELLO)
    assert client.get_function_configuration(FunctionName="updated")["CodeSize"] == len(code)
    answer = client.update_function_configuration(
        FunctionName="updated", MemorySize=512, Timeout=7, Description="d", EphemeralStorage={"Size": 600},
        Environment={"Variables": {"GREETING": "hi"}}, TracingConfig={"Mode": "Active"},
        LoggingConfig={"LogFormat": "JSON", "ApplicationLogLevel": "WARN"}, SnapStart={"ApplyOn": "PublishedVersions"},
    )
    assert answer["SnapStart"] == {"ApplyOn": "PublishedVersions", "OptimizationStatus": "Off"}
    client.get_waiter("function_updated_v2").wait(FunctionName="updated", WaiterConfig=QUICK)
    now = client.get_function(FunctionName="updated")["Configuration"]
    assert (now["MemorySize"], now["Timeout"], now["Description"]) == (512, 7, "d")
    assert now["Environment"] == {"Variables": {"GREETING": "hi"}}
    assert now["LoggingConfig"]["ApplicationLogLevel"] == "WARN"
    assert now["RevisionId"] not in (before["RevisionId"], answer["RevisionId"])


def test_what_aws_refuses_is_refused_in_its_words(client, create):
    create("refusing")
    assert refused(client.create_function, FunctionName="refusing", Runtime="python3.11", Handler="a.b", Role=ROLE, Code={"ZipFile": HELLO}) == (
        "ResourceConflictException", "Function already exist: refusing", 409)
    assert refused(client.get_function, FunctionName="absent") == (
        "ResourceNotFoundException", f"Function not found: {ARN}absent", 404)
    assert refused(client.get_function, FunctionName="refusing", Qualifier="7")[1] == f"Function not found: {ARN}refusing:7"
    assert refused(client.invoke, FunctionName="refusing:7")[1] == f"Function not found: {ARN}refusing:7"
    assert refused(client.get_function, FunctionName="refusing:1", Qualifier="2") == (
        "InvalidParameterValueException",
        "The derived qualifier from the function name does not match the specified qualifier.", 400)
    assert refused(client.get_function, FunctionName="arn:aws:lambda:eu-west-1:000000000000:function:x") == (
        "ResourceNotFoundException", "Functions from 'eu-west-1' are not reachable in this region ('us-east-1')", 404)
    assert refused(client.get_function, FunctionName="a b")[0] == "ValidationException"

    def make(**changes):
        settings = {"FunctionName": "other", "Runtime": "python3.11", "Handler": "a.b", "Role": ROLE, "Code": {"ZipFile": HELLO}}
        return refused(client.create_function, **(settings | changes))

    assert make(Code={"ZipFile": b"garbage"})[1] == "Could not unzip uploaded file. Please check your file, then try to upload again."
    assert "Could not unzip" in make(Code={"ZipFile": archive({"../evil": "x"})})[1]
    unknown = make(Runtime="python3.99")
    assert unknown[0] == "InvalidParameterValueException"
    assert unknown[1].startswith("Value python3.99 at 'runtime' failed to satisfy constraint: Member must satisfy enum value set: [")
    assert "python3.11" in unknown[1]
    assert make(Role="r")[0] == "ValidationException"
    assert make(MemorySize=129_000)[0] == "ValidationException"
    assert make(Timeout=901)[0] == "ValidationException"
    assert "exceeded the 4KB limit" in make(Environment={"Variables": {"BIG": "x" * 5000}})[1]
    assert "AWS_REGION" in make(Environment={"Variables": {"AWS_REGION": "x"}})[1]
    assert "Container images" in make(PackageType="Image", Code={"ImageUri": "x"})[1]
    assert "VpcConfig" in make(VpcConfig={"SubnetIds": ["s"], "SecurityGroupIds": ["g"]})[1]
    assert "arm64" in make(Architectures=["arm64"])[1]
    assert make(Layers=["arn:aws:lambda:us-east-1:000000000000:layer:none:1"])[0] == "InvalidParameterValueException"
    assert refused(client.delete_function, FunctionName="refusing", Qualifier="$LATEST")[0] == "InvalidParameterValueException"
    assert refused(client.get_function, FunctionName="other")[0] == "ResourceNotFoundException", "nothing was made"


def test_lists_come_in_pages(client, create):
    names = [f"page-{number}" for number in range(5)]
    for name in names:
        create(name)
    pages = client.get_paginator("list_functions").paginate(PaginationConfig={"PageSize": 2})
    pages = [[function["FunctionName"] for function in page["Functions"]] for page in pages]
    assert all(len(page) <= 2 for page in pages)
    assert [name for page in pages for name in page if name in names] == names
    client.publish_version(FunctionName="page-0")
    everything = client.get_paginator("list_functions").paginate(FunctionVersion="ALL")
    arns = [function["FunctionArn"] for page in everything for function in page["Functions"]]
    assert ARN + "page-0:$LATEST" in arns and ARN + "page-0:1" in arns
    usage = client.get_account_settings()
    assert usage["AccountUsage"]["FunctionCount"] >= 5
    assert usage["AccountLimit"]["ConcurrentExecutions"] == 1000


def test_tags_and_small_settings(client, create):
    create("tagged", Tags={"team": "a"})
    arn = ARN + "tagged"
    client.tag_resource(Resource=arn, Tags={"stage": "test", "space ": "x=y&z"})
    assert client.list_tags(Resource=arn)["Tags"] == {"team": "a", "stage": "test", "space ": "x=y&z"}
    client.untag_resource(Resource=arn, TagKeys=["team", "space "])
    assert client.get_function(FunctionName=arn)["Tags"] == {"stage": "test"}
    assert client.get_function_code_signing_config(FunctionName="tagged")["CodeSigningConfigArn"] == ""
    client.get_runtime_management_config(FunctionName="tagged")
    client.get_function_recursion_config(FunctionName="tagged")


def test_layers_are_seen_by_functions(client, create):
    layer = client.publish_layer_version(
        LayerName="lib", Content={"ZipFile": archive({"python/shared.py": "NAME = 'layer'\n"})},
        CompatibleRuntimes=["python3.11"], Description="d", LicenseInfo="MIT")
    arn = layer["LayerVersionArn"]
    assert urllib.request.urlopen(layer["Content"]["Location"]).read()
    code = python("import shared\ndef handler(event, context):\n    return shared.NAME\n")
    answer = create("layered", code, Layers=[arn])
    assert [used["Arn"] for used in answer["Layers"]] == [arn]
    assert client.get_layer_version_by_arn(Arn=arn)["Version"] == layer["Version"]
    assert client.get_layer_version(LayerName="lib", VersionNumber=layer["Version"])["Description"] == "d"
    assert client.list_layer_versions(LayerName="lib")["LayerVersions"][0]["LayerVersionArn"] == arn
    assert client.list_layers(CompatibleRuntime="python3.11")["Layers"][0]["LayerName"] == "lib"
    client.delete_layer_version(LayerName="lib", VersionNumber=layer["Version"])
    assert client.invoke(FunctionName="layered")["Payload"].read() == b'"layer"', "a function keeps its layers"
    assert refused(client.get_layer_version, LayerName="lib", VersionNumber=layer["Version"])[2] == 404


def test_permissions_are_kept(client, create):
    create("permitted")
    statement = client.add_permission(FunctionName="permitted", StatementId="s", Action="lambda:InvokeFunction", Principal="s3.amazonaws.com", SourceArn="arn:aws:s3:::b")
    assert '"Sid":"s"' in statement["Statement"]
    assert refused(client.add_permission, FunctionName="permitted", StatementId="s", Action="lambda:InvokeFunction", Principal="*")[2] == 409
    assert '"Service":"s3.amazonaws.com"' in client.get_policy(FunctionName="permitted")["Policy"]
    client.remove_permission(FunctionName="permitted", StatementId="s")
    assert refused(client.get_policy, FunctionName="permitted")[0] == "ResourceNotFoundException"


def test_runtimes_have_awss_names(client, create):
    """Debian's Node.js is of one version: what AWS calls it is taken and shown, another version is refused."""
    code = archive({"index.js": "exports.handler = async (event) => ({ version: process.versions.node, event });\n"})
    answer = create("script", code, Runtime="nodejs18.x", Handler="index.handler")
    assert answer["Runtime"] == "nodejs18.x"
    result = json.load(client.invoke(FunctionName="script", Payload=b"1")["Payload"])
    assert result["event"] == 1 and result["version"].startswith("18.")
    assert client.get_function_configuration(FunctionName="script")["Runtime"] == "nodejs18.x"
    for runtime in ("nodejs20.x", "python3.99", "java21"):
        code, text, status = refused(client.update_function_configuration, FunctionName="script", Runtime=runtime)
        assert (code, status) == ("InvalidParameterValueException", 400)
        assert "nodejs18.x" in text and "python3.11" in text, "it says which there are"
