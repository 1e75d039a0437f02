"""Packs a file into a zip and unpacks it again (SeBS's compression)."""

import encodings.cp437  # noqa: F401: zipfile imports it with its first archive
import io
import os
import zipfile
import zlib

INPUTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "inputs")


def handler(event, context):
    with open(os.path.join(INPUTS, event["file"]), "rb") as file:
        content = file.read()
    packed = io.BytesIO()
    entry = zipfile.ZipInfo(event["file"], (2022, 4, 5, 0, 0, 0))
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(entry, content)
    with zipfile.ZipFile(packed) as archive:
        if archive.testzip() is not None or archive.read(entry) != content:
            raise AssertionError("unpacked it is another file")
    return {"checksum": f"{zlib.crc32(content):08x}", "bytes": packed.getbuffer().nbytes}
