"""Builds, writes and reads a JSON document, and checks that nothing was lost on the way."""

import json
import zlib


def document(records):
    """A document with every kind of JSON value, the same for the same number."""
    return {
        "records": [
            {
                "id": number,
                "name": f"record {number} \u00e9\u4e2d\U0001f600",
                "share": number / 7,
                "tags": ["even" if number % 2 == 0 else "odd", None, number % 3 == 0],
            }
            for number in range(records)
        ]
    }


def handler(event, context):
    records = int(event.get("records", 1000))
    text = json.dumps(document(records), sort_keys=True)
    back = json.loads(text)
    if back != document(records):
        raise AssertionError("the document changed on its way through JSON")
    if sum(record["id"] for record in back["records"]) != records * (records - 1) // 2:
        raise AssertionError("records are missing")
    return {"records": records, "bytes": len(text), "crc32": zlib.crc32(text.encode())}
