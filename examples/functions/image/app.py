"""Turns a picture by 90, 180 and 270 degrees with Pillow (FunctionBench's image processing)."""

import io
import os
import zlib

from PIL import Image

Image.preinit()  # the modules for file formats, which Pillow imports with its first picture

INPUTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "inputs")
TURNS = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)


def handler(event, context):
    with open(os.path.join(INPUTS, event["file"]), "rb") as file:
        picture = Image.open(io.BytesIO(file.read())).convert("RGB")
    checksum, packed_bytes = 0, 0
    for turn in TURNS:
        turned = picture.transpose(turn)
        checksum = zlib.crc32(turned.tobytes(), checksum)
        packed = io.BytesIO()
        turned.save(packed, "JPEG", quality=85)
        packed_bytes += packed.getbuffer().nbytes
    back = picture.transpose(TURNS[0]).transpose(TURNS[2])
    if back.tobytes() != picture.tobytes():
        raise AssertionError("turned there and back it is another picture")
    return {"checksum": f"{checksum:08x}", "size": list(picture.size), "bytes": packed_bytes}
