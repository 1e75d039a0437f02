"""Mirrors a film and packs it again, with FFmpeg's libraries by PyAV (the paper runs ffmpeg as a child process)."""

import io
import os
import zlib

import av
import av.subtitles.stream  # noqa: F401: PyAV imports it with its first file
import numpy

INPUTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "inputs")


def handler(event, context):
    with open(os.path.join(INPUTS, event["file"]), "rb") as file:
        source = av.open(io.BytesIO(file.read()))
    stream = source.streams.video[0]
    stream.thread_count = 1
    packed = io.BytesIO()
    target = av.open(packed, "w", format="mp4")
    film = target.add_stream("mpeg4", rate=24)
    film.width, film.height, film.pix_fmt = stream.width, stream.height, "yuv420p"
    film.thread_count = 1
    checksum, frames = 0, 0
    for frame in source.decode(stream):
        picture = frame.to_ndarray(format="yuv420p")
        mirrored = mirror(picture, stream.width, stream.height)
        if not numpy.array_equal(mirror(mirrored, stream.width, stream.height), picture):
            raise AssertionError("mirrored twice it is another picture")
        checksum = zlib.crc32(mirrored.tobytes(), checksum)
        frames += 1
        target.mux(film.encode(av.VideoFrame.from_ndarray(mirrored, format="yuv420p")))
    target.mux(film.encode(None))
    target.close()
    source.close()
    if frames != event["frames"]:
        raise AssertionError(f"{frames} frames came out, not {event['frames']}")
    return {"checksum": f"{checksum:08x}", "frames": frames, "bytes": packed.getbuffer().nbytes}


def mirror(picture, width, height):
    """Left and right exchanged, plane by plane: brightness in full size, two colours in half of it."""
    quarter = height // 4
    mirrored = numpy.empty_like(picture)
    mirrored[:height] = picture[:height, ::-1]
    for first in (height, height + quarter):
        colour = picture[first : first + quarter].reshape(height // 2, width // 2)
        mirrored[first : first + quarter] = colour[:, ::-1].reshape(quarter, width)
    return mirrored
