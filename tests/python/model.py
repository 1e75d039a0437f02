"""Answers checked against botocore's own model of AWS Lambda."""

import functools
import json

import botocore.session

# AWS sends 204 where its model says 200 (recorded from the service).
STATUS = {"DeleteFunction": {204}, "Invoke": {200, 202, 204}, "InvokeWithResponseStream": {200, 204}}


@functools.cache
def service():
    return botocore.session.get_session().get_service_model("lambda")


class Checker:
    """Hooked into a client: looks at each raw answer before botocore makes something of it."""

    def __init__(self):
        self.seen = set()

    def attach(self, client):
        client.meta.events.register("before-parse.lambda.*", self.check)

    def check(self, operation_model, response_dict, **_):
        name = operation_model.name
        status, headers = response_dict["status_code"], response_dict["headers"]
        assert headers.get("x-amzn-requestid"), f"{name}: no request id"
        if status >= 300:
            assert headers.get("x-amzn-errortype"), f"{name}: no error type"
            body = json.loads(response_dict["body"])
            assert isinstance(body.get("message", body.get("Message")), str), f"{name}: no text: {body}"
            return
        self.seen.add(name)
        expected = STATUS.get(name, {operation_model.http.get("responseCode", 200)})
        assert status in expected, f"{name}: status {status}, expected {expected}"
        shape = operation_model.output_shape
        if shape is None or operation_model.has_event_stream_output or shape.serialization.get("payload"):
            return
        body = response_dict["body"]
        if status == 204:
            assert body == b"", f"{name}: a body with 204"
            return
        compare(json.loads(body), shape, name)


def compare(value, shape, where):
    kind = shape.type_name
    if kind == "structure":
        assert isinstance(value, dict), f"{where}: {value!r} is no object"
        known = {member.serialization.get("name", name): member for name, member in shape.members.items()}
        unknown = set(value) - set(known)
        assert not unknown, f"{where}: members that the model has not: {unknown}"
        missing = {name for name in shape.required_members if name not in value}
        assert not missing, f"{where}: members are missing: {missing}"
        for name, member in value.items():
            compare(member, known[name], f"{where}.{name}")
    elif kind == "list":
        assert isinstance(value, list), f"{where}: {value!r} is no list"
        for item in value:
            compare(item, shape.member, f"{where}[]")
    elif kind == "map":
        assert isinstance(value, dict), f"{where}: {value!r} is no map"
        for key, item in value.items():
            compare(key, shape.key, f"{where} key")
            compare(item, shape.value, f"{where}.{key}")
    elif kind in ("string", "blob"):
        assert isinstance(value, str), f"{where}: {value!r} is no text"
        # Runtimes are named as they are in the home, and AWS itself sends "Creating" with updates (recorded).
        free = where.endswith((".Runtime", ".LastUpdateStatusReasonCode"))
        if shape.enum and not free:
            assert value in shape.enum, f"{where}: {value!r} is none of {shape.enum}"
        longest = shape.metadata.get("max")
        assert longest is None or len(value) <= longest, f"{where}: {value!r} is too long"
    elif kind in ("integer", "long"):
        assert isinstance(value, int) and not isinstance(value, bool), f"{where}: {value!r} is no number"
    elif kind in ("float", "double"):
        assert isinstance(value, (int, float)), f"{where}: {value!r} is no number"
    elif kind == "timestamp":
        assert isinstance(value, (int, float)), f"{where}: {value!r} is no time"
    elif kind == "boolean":
        assert isinstance(value, bool), f"{where}: {value!r} is no boolean"
    else:
        raise AssertionError(f"{where}: a kind of member that this test does not know: {kind}")
