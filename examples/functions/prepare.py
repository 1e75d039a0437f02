"""Puts the benchmark's functions together: code, generated inputs, and what each answer has to be.

    prepare.py SOURCES TARGET       makes TARGET/FUNCTION/ for each function
    prepare.py --answer FOLDER      answers events (JSON lines on standard input) with the handler in FOLDER

It is run by the runtime's own interpreter on the host (`cargo xtask functions` does that), so the expected checksums come
from the same libraries, outside of any guest. Inputs are generated from seeds: the same everywhere, nothing is downloaded.
Beside `app.py` each folder gets `inputs/` and `benchmark.json`, which `faasnap bench` reads: memory, events and checksums.

Input A is recorded, B is tested. Sizes are those of the paper's table, but for pagerank (a fifth of its nodes), mmap (64 of 512 MiB)
and read-list (128 of 512 MiB), which would take most of the time for themselves. `0.25x` to `4x` are A's size times that.
"""

import json
import math
import os
import random
import shutil
import subprocess
import sys

# In the order in which the benchmark shows them; megabytes as a function is given them.
MEMORY = {
    "hello-world": 128,
    "read-list": 512,
    "mmap": 256,
    "image": 512,
    "json": 256,
    "pyaes": 256,
    "chameleon": 512,
    "matmul": 768,
    "video": 768,
    "compression": 256,
    "recognition": 1024,
    "pagerank": 1536,
}
SCALES = (0.25, 0.5, 1, 2, 4)
RECOGNITION_WEIGHTS = 25_502_912


def labels():
    """Label, size relative to A, seed: every input that is made where a size can be chosen."""
    return [(f"{scale:g}x", scale, 10 + number) for number, scale in enumerate(SCALES)]


def events(name, folder):
    """The inputs of a function as label, size in words, event; files are written into `folder`."""
    if name == "hello-world":
        return [("a", "a name", {"name": "A"}), ("b", "another name", {"name": "somebody else"})]
    if name == "read-list":
        return [("a", "128 MiB", {"first": 0}), ("b", "128 MiB, other elements", {"first": 100})]
    if name == "mmap":
        return [
            ("a", "64 MiB", {"mebibytes": 64, "value": 1}),
            ("b", "64 MiB, other content", {"mebibytes": 64, "value": 2}),
        ]
    if name in ("image", "recognition"):
        return files(folder, "jpg", 102_796, 109_640, write_picture)
    if name == "json":
        return files(folder, "json", 12_629, 151_318, write_document)
    if name == "compression":
        return files(folder, "txt", 12_629, 151_318, write_text)
    if name == "video":
        return films(folder)
    if name == "pyaes":
        event = lambda length, seed: (f"{length} characters", {"length": length, "seed": seed})
        return by_number(20_000, 22_000, event)
    if name == "matmul":
        event = lambda size, seed: (f"{size} x {size}", {"size": size, "seed": seed})
        return by_number(1100, 1200, event, power=0.5)
    if name == "chameleon":
        event = lambda rows, columns, shift: (
            f"{rows} x {columns} cells",
            {"rows": rows, "columns": columns, "shift": shift},
        )
        found = [("a", *event(100, 300, 1)), ("b", *event(200, 200, 2))]
        return found + [
            (label, *event(round(100 * scale**0.5), round(300 * scale**0.5), seed))
            for label, scale, seed in labels()
        ]
    if name == "pagerank":
        event = lambda nodes, seed: (f"{nodes} nodes", {"nodes": nodes, "seed": seed})
        return by_number(18_000, 20_000, event)
    raise ValueError(name)


def by_number(a, b, event, power=1.0):
    """Inputs that are a number and a seed."""
    found = [("a", *event(a, 1)), ("b", *event(b, 2))]
    return found + [(label, *event(round(a * scale**power), seed)) for label, scale, seed in labels()]


def files(folder, ending, a, b, write):
    """Inputs that are files of about so many bytes."""
    os.makedirs(folder, exist_ok=True)
    found = []
    for label, size, seed in [("a", a, 1), ("b", b, 2)] + [(l, a * scale, seed) for l, scale, seed in labels()]:
        name = f"{label}.{ending}"
        content = write(round(size), seed)
        with open(os.path.join(folder, name), "wb") as file:
            file.write(content)
        found.append((label, f"{len(content)} bytes", {"file": name}))
    return found


def write_picture(size, seed):
    """A JPEG of about that size: clouds with some noise, three to two."""
    import io

    import numpy
    from PIL import Image

    height = round(math.sqrt(size * 2.6))
    width = height * 3 // 2
    generator = numpy.random.default_rng(seed)
    small = generator.integers(0, 256, (12, 18, 3), numpy.uint8)
    clouds = numpy.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC), numpy.int16)
    noise = generator.integers(-14, 15, (height, width, 1), numpy.int16)
    picture = Image.fromarray(numpy.clip(clouds + noise, 0, 255).astype(numpy.uint8))
    best = b""
    # The quality whose result comes nearest to the size.
    for quality in range(30, 96, 5):
        packed = io.BytesIO()
        picture.save(packed, "JPEG", quality=quality)
        content = packed.getvalue()
        if not best or abs(len(content) - size) < abs(len(best) - size):
            best = content
    return best


def write_document(size, seed):
    """A JSON document of about that size, written compactly."""
    chance = random.Random(seed)
    records = []
    written = 2
    while written < size:
        record = {
            "id": len(records),
            "name": "".join(chance.choices("abcdefghijklmnopqrstuvwxyz \u00e9\u4e2d", k=chance.randint(5, 25))),
            "share": chance.random(),
            "tags": [chance.choice([None, True, False, "x", chance.randint(0, 99)]) for _ in range(3)],
            "nested": {"east": chance.uniform(-180, 180), "north": chance.uniform(-90, 90)},
        }
        records.append(record)
        written += len(json.dumps(record, separators=(",", ":"))) + 1
    return json.dumps(records, separators=(",", ":")).encode()


def write_text(size, seed):
    """Words by a steep distribution, as in a language."""
    chance = random.Random(seed)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = ["".join(chance.choices(letters, k=chance.randint(2, 9))) for _ in range(2000)]
    weights = [1 / (rank + 1) for rank in range(len(words))]
    text = " ".join(chance.choices(words, weights, k=size // 4))
    return text.encode()[:size]


def films(folder):
    """H.264 films of about so many bytes: a picture that moves, with noise. Longer ones are larger."""
    os.makedirs(folder, exist_ok=True)
    found = []
    for label, size, seed in [("a", 345_454, 1), ("b", 389_930, 2)] + [
        (l, 345_454 * scale, seed) for l, scale, seed in labels()
    ]:
        frames = max(4, round(size / 9_600))
        content = write_film(frames, seed)
        name = f"{label}.mp4"
        with open(os.path.join(folder, name), "wb") as file:
            file.write(content)
        found.append((label, f"{len(content)} bytes", {"file": name, "frames": frames}))
    return found


def write_film(frames, seed):
    import io

    import av
    import numpy

    width, height = 320, 240
    generator = numpy.random.default_rng(seed)
    across, down = numpy.meshgrid(numpy.arange(width), numpy.arange(height))
    packed = io.BytesIO()
    film = av.open(packed, "w", format="mp4")
    stream = film.add_stream("libx264", rate=24, options={"preset": "fast", "crf": "14", "threads": "1"})
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    for number in range(frames):
        wave = 128 + 80 * numpy.sin((across + 5 * number + seed) / 23) * numpy.cos((down - 3 * number) / 17)
        noisy = wave + generator.normal(0, 7, wave.shape)
        colours = numpy.stack([noisy, numpy.roll(noisy, number, 1), 255 - noisy], axis=2)
        picture = numpy.clip(colours, 0, 255).astype(numpy.uint8)
        film.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
    film.mux(stream.encode(None))
    film.close()
    return packed.getvalue()


def write_weights(path):
    """Weights of ResNet-50's count and deviation."""
    import numpy

    generator = numpy.random.default_rng(50)
    with open(path, "wb") as file:
        (generator.standard_normal(RECOGNITION_WEIGHTS, numpy.float32) * numpy.float32(0.05)).tofile(file)


def expected(folder, events):
    """The answers of the handler in `folder`, from a process of its own."""
    asked = "\n".join(json.dumps(event) for event in events)
    # The interpreter may have been started by its own dynamic loader: the whole command line is needed again.
    with open("/proc/self/cmdline", "rb") as file:
        command = file.read().split(b"\0")[:-1]
    interpreter = command[: command.index(os.fsencode(sys.argv[0]))]
    run = subprocess.run(
        [*interpreter, sys.argv[0], "--answer", folder], input=asked, capture_output=True, text=True
    )
    if run.returncode:
        raise SystemExit(f"the handler in {folder} failed:\n{run.stderr}")
    return [json.loads(line)["checksum"] for line in run.stdout.splitlines()]


def answer(folder):
    sys.path.insert(0, folder)
    import app

    for line in sys.stdin:
        print(json.dumps(app.handler(json.loads(line), None)))


def prepare(sources, target):
    for name, memory in MEMORY.items():
        folder = os.path.join(target, name)
        staged = folder + ".new"
        shutil.rmtree(staged, ignore_errors=True)
        os.makedirs(staged)
        shutil.copy(os.path.join(sources, name, "app.py"), staged)
        inputs = events(name, os.path.join(staged, "inputs"))
        if name == "recognition":
            write_weights(os.path.join(staged, "weights"))
        checksums = expected(staged, [event for _, _, event in inputs])
        if checksums[0] == checksums[1]:
            raise SystemExit(f"{name} answers A and B alike, so its checksum shows nothing")
        described = [
            {"label": label, "size": size, "event": event, "checksum": checksum}
            for (label, size, event), checksum in zip(inputs, checksums)
        ]
        with open(os.path.join(staged, "benchmark.json"), "w", encoding="utf-8") as file:
            json.dump({"memory": memory, "inputs": described}, file, indent=1)
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(staged, folder)
        print(f"{name}: {len(inputs)} inputs", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--answer":
        answer(sys.argv[2])
    else:
        prepare(*sys.argv[1:])
