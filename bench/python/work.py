"""CPU-bound work in four kinds. Prints "name nanoseconds" for each: the least time of several repeats, start-up and
imports left out. Every kind checks its result."""

import json
import sys
import time
import zlib


def matmul():
    import numpy

    random = numpy.random.default_rng(1)
    left, right = (random.integers(-9, 9, (384, 384)).astype(float) for _ in range(2))

    def work():
        product = left
        for _ in range(6):
            product = left @ right
        if product.sum() != left.sum(axis=0) @ right.sum(axis=1):
            raise AssertionError("wrong product")

    return work


def aes():
    import pyaes

    key = bytes(range(32))
    text = bytes(range(256)) * 16

    def work():
        packed = pyaes.AESModeOfOperationCTR(key).encrypt(text)
        if pyaes.AESModeOfOperationCTR(key).decrypt(packed) != text:
            raise AssertionError("wrong text")

    return work


def compress():
    text = b"".join(b"line %d of a text that packs well\n" % number for number in range(30000))

    def work():
        if zlib.decompress(zlib.compress(text, 6)) != text:
            raise AssertionError("wrong text")

    return work


def parse():
    document = [{"id": number, "name": f"name {number}", "share": number / 7} for number in range(12000)]

    def work():
        if json.loads(json.dumps(document)) != document:
            raise AssertionError("wrong document")

    return work


def measure(name, work):
    best = None
    for _ in range(5):
        start = time.perf_counter_ns()
        work()
        took = time.perf_counter_ns() - start
        best = took if best is None else min(best, took)
    print(name, best, flush=True)


kinds = {"matmul": matmul, "pyaes": aes, "zlib": compress, "json": parse}
for name in sys.argv[1:] or kinds:
    measure(name, kinds[name]())
