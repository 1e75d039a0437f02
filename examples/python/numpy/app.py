"""Multiplies two matrices of whole numbers with numpy and checks the product."""

import numpy


def handler(event, context):
    size = int(event.get("size", 256))
    seed = int(event.get("seed", 1))
    random = numpy.random.default_rng(seed)
    # Whole numbers this small stay exact in double precision, in whatever order they are added.
    left = random.integers(-100, 100, (size, size)).astype(numpy.float64)
    right = random.integers(-100, 100, (size, size)).astype(numpy.float64)
    product = left @ right
    # The sum of all elements of a product follows from column sums and row sums alone.
    if product.sum() != left.sum(axis=0) @ right.sum(axis=1):
        raise AssertionError("the product is wrong in sum")
    row, column = seed % size, (7 * seed) % size
    if product[row, column] != sum(int(a) * int(b) for a, b in zip(left[row], right[:, column])):
        raise AssertionError("the product is wrong in one element")
    return {"size": size, "trace": float(numpy.trace(product)), "numpy": numpy.__version__}
