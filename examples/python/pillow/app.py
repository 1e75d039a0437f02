"""Draws a picture, shrinks it with Pillow, packs and unpacks it as PNG, and checks its pixels."""

import io

from PIL import Image


def picture(size):
    """Red grows to the right, green downwards, blue is the same everywhere."""
    row = bytes(value * 255 // (size - 1) for value in range(size))
    red = Image.frombytes("L", (size, size), row * size)
    green = red.transpose(Image.Transpose.TRANSPOSE)
    blue = Image.new("L", (size, size), 77)
    return Image.merge("RGB", (red, green, blue))


def handler(event, context):
    size = int(event.get("size", 512))
    small = picture(size).resize((size // 4, size // 4), Image.Resampling.BOX)
    packed = io.BytesIO()
    small.save(packed, "PNG")
    packed.seek(0)
    back = Image.open(packed).convert("RGB")
    if back.tobytes() != small.tobytes():
        raise AssertionError("PNG changed the pixels")
    # A box filter takes the mean of four by four pixels, so each pixel is known.
    for x, y in [(0, 0), (3, 10), (back.width - 1, back.height // 2), (back.width // 3, back.height - 1)]:
        mean = lambda at: sum((4 * at + step) * 255 // (size - 1) for step in range(4)) / 4
        expected = (mean(x), mean(y), 77)
        found = back.getpixel((x, y))
        if any(abs(value - wanted) > 1 for value, wanted in zip(found, expected)):
            raise AssertionError(f"pixel {x},{y} is {found}, not {expected}")
    return {"size": list(back.size), "bytes": packed.getbuffer().nbytes}
