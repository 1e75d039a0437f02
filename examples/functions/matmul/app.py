"""Multiplies two square matrices with numpy (FunctionBench's matmul)."""

import zlib

import numpy
import numpy.random  # numpy imports it at its first use


def handler(event, context):
    size, seed = int(event["size"]), int(event["seed"])
    random = numpy.random.default_rng(seed)
    # Whole numbers this small stay exact in double precision, in whatever order they are added.
    left = random.integers(-100, 100, (size, size)).astype(numpy.float64)
    right = random.integers(-100, 100, (size, size)).astype(numpy.float64)
    product = left @ right
    # The sum of all elements of a product follows from column sums and row sums alone.
    if product.sum() != left.sum(axis=0) @ right.sum(axis=1):
        raise AssertionError("the product is wrong in sum")
    return {"checksum": f"{zlib.crc32(product.tobytes()):08x}", "trace": float(numpy.trace(product))}
