"""Requests that are nearly right: made from botocore's model of AWS Lambda, then broken. The same seed makes the same ones."""

import base64
import copy
import json
import pathlib
import random
import re
import urllib.parse
import zlib

from conftest import HELLO, ROLE
from model import service

# Invocations go to STEADY, which nothing changes; everything else to one of the others.
STEADY = "steady"
CHANGED = ("changed-0", "changed-1", "changed-2")
OFFERED = set(re.findall(r"^\| `(\w+)` \|", (pathlib.Path(__file__).parents[2] / "docs/lambda-api.md").read_text(), re.M))

ODD_TEXTS = ("", " ", "x" * 65, "x" * 300, "x" * 20_000, "\0", "é", "💥", "\ud800", "../../etc/passwd", "a\r\nb: c", "$LATEST", "0", "-1",
             "arn:aws:lambda:us-east-1:000000000000:function:", "arn:aws:lambda:::function:f", "f:1:2", "%00", "%s%n", "'", '"', "<b>", "null",
             "99999999999999999999", "\u202e", "١", "arn:aws:lambda:us-east-1:000000000000:layer:l:18446744073709551616")
ODD_VALUES = (None, True, False, 0, -1, 1, 2**31, -(2**31) - 1, 2**63, 2**64, 10**30, 1e308, -0.0, 0.1, [], {}, [[]], [None], {"": ""}, {"a": {"b": []}},
              ["x"] * 200, {str(n): n for n in range(200)}, *ODD_TEXTS)
ODD_BYTES = (b"", b" ", b"{", b"}", b"[", b"]", b'"', b"{]", b"nul", b"NaN", b"{'a':1}", b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe{\x00}\x00",
             b"\xef\xbb\xbf{}", b'{"a":"\xff"}', b"{}{}", b"{},", b"a=b&c=d", b"<x/>", b"PK\x03\x04", b"\0" * 1000, b'"' + b"x" * 100_000 + b'"',
             zlib.compress(b"{}"), b'{"FunctionName":"a","FunctionName":"b"}', b'{"a":1e999}', b'{"\\ud800":1}', b"1", b'"x"', b"[]", b"null")
# Names are what the model sends in headers, and what servers trip over.
ODD_HEADERS = (("Content-Type", "text/html"), ("Content-Type", "application/json; charset=utf-16"), ("Content-Encoding", "gzip"), ("Expect", "100-continue"),
               ("Accept", "text/html"), ("Host", ""), ("Host", "a" * 3000), ("Host", "evil/../x"), ("X-Amz-Invocation-Type", "event"),
               ("X-Amz-Invocation-Type", "\xff"), ("X-Amz-Log-Type", "tail"), ("X-Amz-Log-Type", ""), ("X-Amz-Client-Context", "%"),
               ("X-Amz-Client-Context", "e30="), ("X-Amz-Client-Context", "A" * 4000), ("X-Amz-Client-Context", "bnVsbA=="), ("X-Amz-Tenant-Id", "t"),
               ("X-Amz-Durable-Execution-Name", "d"), ("X-Amzn-Trace-Id", "Root=1;;;;\t"), ("X-Amzn-Trace-Id", "x" * 9000), ("Range", "bytes=0-"),
               ("Cookie", "a" * 8000), ("Upgrade", "h2c"), ("Connection", "Upgrade, HTTP2-Settings"), ("Connection", "close"), ("X", "y" * 60_000),
               ("Authorization", "AWS4-HMAC-SHA256"), ("Authorization", "Basic eDp5"), ("X-HTTP-Method-Override", "DELETE"), ("Date", "yesterday"))
ODD_HEADS = (b"GET / HTTP/9.9\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"\r\n\r\n\r\n", b"GET / HTTP/1.1\r\nA\r\n\r\n",
             b"GET / HTTP/1.1\r\n: x\r\n\r\n", b"GET / HTTP/1.1\r\nA: \0\r\n\r\n", b"GET  /  HTTP/1.1\r\n\r\n", b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
             b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 500 + b"\r\n", b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
             b"GET http://x/2015-03-31/functions HTTP/1.1\r\nHost: y\r\n\r\n", b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
             b"GET /2015-03-31/functions HTTP/1.0\r\n\r\n", b"G\xc3\x89T / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, gzip\r\n\r\n")


class Case:
    """A request: its bytes, what was done to it, and whether it is HTTP at all."""

    def __init__(self, index, operation):
        self.index, self.operation = index, operation
        self.done = []
        # Whether the server may close without an answer, or answer without a body: the framing is broken.
        self.framing = False
        self.method, self.path, self.query, self.headers, self.body = "", "", [], [], b""
        self.raw = b""

    def __str__(self):
        return f"request {self.index} ({self.operation}: {', '.join(self.done) or 'as it is'}):\n{self.raw[:1500]!r}{' ...' * (len(self.raw) > 1500)}"


def cases(seed, first, count):
    """`count` requests from number `first` on; every operation has its turn, those that the node offers three times as often."""
    names = sorted(service().operation_names)
    names += [name for name in names if name in OFFERED] * 2
    for index in range(first, first + count):
        yield one(random.Random(f"{seed}/{index}"), index, names[index % len(names)])


def one(rng, index, name):
    operation = service().operation_model(name)
    case = Case(index, name)
    case.method = operation.http["method"]
    path, _, wanted = operation.http["requestUri"].partition("?")
    case.query = urllib.parse.parse_qsl(wanted)
    members = operation.input_shape.members if operation.input_shape else {}
    payload = operation.input_shape.serialization.get("payload") if members else None
    body, sent = {}, {}
    for member, shape in members.items():
        required = member in operation.input_shape.required_members
        if not required and rng.random() < 0.5:
            continue
        where, wire = shape.serialization.get("location"), shape.serialization.get("name", member)
        made = value(rng, shape, member, name)
        if where == "uri":
            sent[wire] = str(made)
        elif where == "querystring":
            case.query += [(wire, str(item)) for item in (made if isinstance(made, list) else [made])]
        elif where in ("header", "headers"):
            case.headers.append((wire, str(made)))
        elif member != payload:
            body[wire] = made
    mutations = [rng.choice((in_body, in_body, in_body, in_bytes, in_path, in_query, in_header, in_method)) for _ in range(rng.choice((0, 1, 1, 1, 1, 1, 2, 3)))]
    if in_body in mutations and body:
        for _ in range(mutations.count(in_body)):
            in_body(rng, case, body)
    case.body = b'{"a":1}' if payload else json.dumps(body).encode() if body else b""
    for wire, text in sent.items():
        path = path.replace("{%s+}" % wire, urllib.parse.quote(text, safe="")).replace("{%s}" % wire, urllib.parse.quote(text, safe=""))
    case.path = path
    for mutation in mutations:
        if mutation is not in_body:
            mutation(rng, case)
    frame(rng, case)
    return case


def value(rng, shape, member, operation, depth=0):
    """Something that the model allows for a member, and mostly the node too."""
    if member == "FunctionName":
        return STEADY if operation.startswith("Invoke") else CHANGED[-1] if operation == "DeleteFunction" else rng.choice(CHANGED)
    known = {
        "Role": ROLE, "Runtime": "python3.11", "Handler": "app.handler", "Code": {"ZipFile": base64.b64encode(HELLO).decode()}, "MemorySize": 256, "Timeout": 3, "PackageType": "Zip",
        "ZipFile": base64.b64encode(HELLO).decode(), "Content": {"ZipFile": base64.b64encode(HELLO).decode()}, "LayerName": "layer", "Qualifier": rng.choice(("$LATEST", "1", "live")),
        "FunctionVersion": "1" if "Alias" in operation else "ALL", "Name": "live", "Resource": f"arn:aws:lambda:us-east-1:000000000000:function:{CHANGED[0]}",
        "InvocationType": rng.choice(("RequestResponse", "Event", "DryRun")), "ClientContext": "e30=", "VersionNumber": 1, "MaxItems": rng.randint(1, 60), "StatementId": "s",
        "Action": "lambda:InvokeFunction", "Principal": "s3.amazonaws.com", "Arn": "arn:aws:lambda:us-east-1:000000000000:layer:layer:1", "Architectures": ["x86_64"],
        "Environment": {"Variables": {"A": "b"}}, "EphemeralStorage": {"Size": 512}, "ReservedConcurrentExecutions": rng.choice((0, 1, 5)),
    }
    if member in known:
        return known[member]
    kind = shape.type_name
    if kind == "structure":
        if depth > 4:
            return {}
        return {name: value(rng, inner, name, operation, depth + 1) for name, inner in shape.members.items() if name in shape.required_members or rng.random() < 0.5}
    if kind == "list":
        return [value(rng, shape.member, "", operation, depth + 1)] if depth < 5 else []
    if kind == "map":
        return {"key": value(rng, shape.value, "", operation, depth + 1)}
    if kind == "string":
        return rng.choice(shape.enum) if shape.enum else "x"
    if kind == "blob":
        return base64.b64encode(HELLO).decode()
    if kind == "boolean":
        return rng.random() < 0.5
    if kind == "timestamp":
        return 1_800_000_000
    return max(shape.metadata.get("min", 1), 1)


def in_body(rng, case, body):
    """A member is another one, is gone, or has company; anywhere in the tree."""
    places, todo = [], [body]
    while todo:
        here = todo.pop()
        keys = list(here) if isinstance(here, dict) else range(len(here))
        for key in keys:
            places.append((here, key))
            if isinstance(here[key], (dict, list)):
                todo.append(here[key])
    if not places:
        return
    here, key = rng.choice(places)
    how = rng.randrange(6)
    if how == 0 and isinstance(here, dict):
        del here[key]
        case.done.append(f"without {key}")
    elif how == 1 and isinstance(here, dict):
        here[rng.choice(("Unknown", key.lower() if key else "k", key + " ", "__proto__", ""))] = copy.deepcopy(rng.choice(ODD_VALUES))
        case.done.append(f"something beside {key}")
    elif how == 2 and isinstance(here[key], str):
        text = list(here[key] or "x")
        text[rng.randrange(len(text))] = rng.choice(("\0", "é", "%", "=", "/", ""))
        here[key] = "".join(text)
        case.done.append(f"{key} with another character")
    else:
        here[key] = copy.deepcopy(rng.choice(ODD_VALUES))
        case.done.append(f"{key} = {here[key]!r:.40}")


def in_bytes(rng, case):
    how = rng.randrange(4)
    if how == 0 and case.body:
        case.body = case.body[: rng.randrange(len(case.body))]
        case.done.append("body cut")
    elif how == 1 and case.body:
        body = bytearray(case.body)
        for _ in range(rng.randint(1, 8)):
            body[rng.randrange(len(body))] = rng.randrange(256)
        case.body = bytes(body)
        case.done.append("bytes of the body changed")
    elif how == 2:
        case.body += rng.choice(ODD_BYTES)
        case.done.append("something after the body")
    else:
        case.body = rng.choice(ODD_BYTES)
        case.done.append("another body")


def in_path(rng, case):
    parts = case.path.split("/")
    at = rng.randrange(1, len(parts))
    how = rng.randrange(5)
    if how == 0:
        parts[at] = urllib.parse.quote(rng.choice(ODD_TEXTS).encode("utf-8", "surrogatepass"), safe="")
    elif how == 1:
        del parts[at]
    elif how == 2:
        parts.insert(at, rng.choice(("", "..", ".", "%2e%2e", "functions", "%2F")))
    elif how == 3:
        parts[at] += rng.choice(("%", "%f", "%zz", "%ff", "%00", ";a=b", ":", "*", "%25", "\\", "|"))
    else:
        parts[at] = parts[at].upper()
    case.path = "/".join(parts) or "/"
    case.done.append(f"path {case.path[:60]}")


def in_query(rng, case):
    how = rng.randrange(4)
    if how == 0 and case.query:
        at = rng.randrange(len(case.query))
        case.query[at] = (case.query[at][0], rng.choice(ODD_TEXTS))
    elif how == 1 and case.query:
        case.query += case.query * rng.choice((1, 50))
    elif how == 2 and case.query:
        del case.query[rng.randrange(len(case.query))]
    else:
        names = ("Qualifier", "Marker", "MaxItems", "FunctionVersion", "find", "List", "tagKeys", "Arn", "CompatibleRuntime", "RevisionId", "X-Amz-Signature", "")
        case.query.append((rng.choice(names), rng.choice(ODD_TEXTS)))
    case.done.append(f"query {str(case.query)[:60]}")


def in_header(rng, case):
    header = rng.choice(ODD_HEADERS)
    case.headers.append(header)
    case.done.append(f"header {header[0]}: {header[1][:20]}")


def in_method(rng, case):
    case.method = rng.choice(("GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS", "TRACE", "get", "LOCK", "X" * 50))
    case.done.append(f"method {case.method}")


def frame(rng, case):
    """The bytes. One in twelve is framed wrong."""
    def text(part):
        return part.encode("utf-8", "surrogatepass")

    pairs = "&".join(f"{urllib.parse.quote(text(name), safe='')}={urllib.parse.quote(text(given), safe='')}" for name, given in case.query)
    target = case.path + ("?" + pairs if pairs else "")
    head = [f"{case.method} {target} HTTP/1.1", *(f"{name}: {given}" for name, given in case.headers if "\n" not in given and "\0" not in given)]
    if not any(name == "Host" for name, _ in case.headers):
        head.insert(1, "Host: localhost:9000")
    length, body = len(case.body), case.body
    framing = rng.choice(FRAMINGS) if rng.random() < 1 / 12 else None
    if framing:
        case.framing = True
        case.done.append(f"framing: {framing}")
    if framing == "another head":
        case.raw = rng.choice(ODD_HEADS)
        return
    if framing == "chunked":
        case.framing = False
        head.append("Transfer-Encoding: chunked")
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (length, body) if length else b"0\r\n\r\n"
    elif framing == "broken chunks":
        head.append("Transfer-Encoding: chunked")
        body = rng.choice((b"zz\r\nabc\r\n", b"ffffffffffffffffff\r\n", b"5\r\nab\r\n0\r\n\r\n", b"-1\r\n\r\n", b"3;" + b"x" * 20_000 + b"\r\nabc\r\n", b"5\r\nab"))
    elif framing == "both lengths":
        head += [f"Content-Length: {length}", "Transfer-Encoding: chunked"]
    elif framing == "two lengths":
        head += [f"Content-Length: {length}", f"Content-Length: {length + 1}"]
    else:
        claimed = {"too long": length + 7, "too short": max(length - 3, 0), "negative": -1, "no number": "x", "huge": 2**64, "large": 2**40, "plus": f"+{length}"}
        if length or framing or case.method in ("POST", "PUT"):
            head.append(f"Content-Length: {claimed.get(framing, length)}")
    case.raw = "\r\n".join(head).encode("latin-1", "replace") + b"\r\n\r\n" + body


FRAMINGS = ("another head", "another head", "another head", "chunked", "broken chunks", "both lengths", "two lengths", "too long", "too short", "negative", "no number", "huge",
            "large", "plus")
