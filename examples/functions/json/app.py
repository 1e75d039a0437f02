"""Reads a JSON document and writes it with indentation (FunctionBench's json)."""

import json
import os
import zlib

INPUTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "inputs")


def handler(event, context):
    with open(os.path.join(INPUTS, event["file"]), encoding="utf-8") as file:
        text = file.read()
    document = json.loads(text)
    indented = json.dumps(document, indent=4)
    # The input was written compactly from the same data, so both ways have to lead to the same text.
    if json.dumps(json.loads(indented), separators=(",", ":")) != text:
        raise AssertionError("the document changed on its way")
    return {"checksum": f"{zlib.crc32(indented.encode()):08x}", "bytes": len(indented)}
