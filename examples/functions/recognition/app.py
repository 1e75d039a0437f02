"""Recognises a picture with a convolutional network of ResNet-50's shape (SeBS's image recognition), in numpy.

The weights are made from a seed, so what it recognises means nothing; sizes, memory and work are those of ResNet-50: 53
convolutions and a layer of 1,000 classes, 25.5 million weights, 97 MiB, read when the function initialises.
"""

import io
import os

import numpy
from PIL import Image

Image.preinit()  # the modules for file formats, which Pillow imports with its first picture

HERE = os.path.dirname(os.path.abspath(__file__))
WEIGHTS = numpy.fromfile(os.path.join(HERE, "weights"), numpy.float32)
CLASSES = 1000
# Blocks and inner channels of the four stages.
STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))


class Weights:
    """Hands out the weights in order."""

    def __init__(self):
        self.taken = 0

    def take(self, *shape):
        count = int(numpy.prod(shape))
        self.taken += count
        return WEIGHTS[self.taken - count : self.taken].reshape(shape)


def convolve(pixels, weights, channels, side=1, stride=1):
    """A convolution with as many padding pixels as keep the size, normalised to deviation 1; channels come last."""
    kernel = weights.take(side * side * pixels.shape[2], channels)
    margin = side // 2
    if margin:
        pixels = numpy.pad(pixels, ((margin, margin), (margin, margin), (0, 0)))
    windows = numpy.lib.stride_tricks.sliding_window_view(pixels, (side, side), (0, 1))[::stride, ::stride]
    height, width = windows.shape[:2]
    # Channels of a window come before its rows and columns in the view, behind them in the kernel.
    columns = windows.transpose(0, 1, 3, 4, 2).reshape(height * width, -1)
    result = (columns @ kernel).reshape(height, width, channels)
    return (result - result.mean(axis=(0, 1))) / (result.std(axis=(0, 1)) + 1e-5)


def block(pixels, weights, inner, stride):
    """Three convolutions around a shortcut."""
    short = pixels
    if stride != 1 or pixels.shape[2] != 4 * inner:
        short = convolve(pixels, weights, 4 * inner, stride=stride)
    deep = numpy.maximum(convolve(pixels, weights, inner), 0)
    deep = numpy.maximum(convolve(deep, weights, inner, side=3, stride=stride), 0)
    deep = convolve(deep, weights, 4 * inner)
    return numpy.maximum(deep + short, 0)


def classify(pixels):
    weights = Weights()
    pixels = numpy.maximum(convolve(pixels, weights, 64, side=7, stride=2), 0)
    padded = numpy.pad(pixels, ((1, 1), (1, 1), (0, 0)))
    pixels = numpy.lib.stride_tricks.sliding_window_view(padded, (3, 3), (0, 1))[::2, ::2].max(axis=(3, 4))
    for stage, (blocks, inner) in enumerate(STAGES):
        for number in range(blocks):
            pixels = block(pixels, weights, inner, 2 if stage and not number else 1)
    scores = pixels.mean(axis=(0, 1)) @ weights.take(pixels.shape[2], CLASSES)
    if weights.taken != WEIGHTS.size:
        raise AssertionError(f"{weights.taken} of {WEIGHTS.size} weights were used")
    return scores


def handler(event, context):
    with open(os.path.join(HERE, "inputs", event["file"]), "rb") as file:
        picture = Image.open(io.BytesIO(file.read())).convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)
    scores = classify(numpy.asarray(picture, numpy.float32) / 255 - 0.5)
    if not numpy.isfinite(scores).all():
        raise AssertionError("scores are no numbers")
    best = [int(number) for number in numpy.argsort(-scores)[:5]]
    # The order of the best five stands for the whole computation; sums of floats differ in their last bits by machine.
    return {"checksum": "-".join(map(str, best)), "score": float(scores[best[0]])}
