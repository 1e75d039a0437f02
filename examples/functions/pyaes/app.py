"""Encrypts and decrypts a text with AES in counter mode, in plain Python (FunctionBench's pyaes)."""

import zlib

import pyaes

KEY = bytes(range(7, 39))
ALPHABET = b"abcdefghijklmnopqrstuvwxyz0123456789"


def text(length, seed):
    """A text of that length, the same for the same seed."""
    state, letters = seed, bytearray()
    for _ in range(length):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        letters.append(ALPHABET[(state >> 16) % len(ALPHABET)])
    return bytes(letters)


def handler(event, context):
    plain = text(int(event["length"]), int(event["seed"]))
    encrypted = pyaes.AESModeOfOperationCTR(KEY).encrypt(plain)
    decrypted = pyaes.AESModeOfOperationCTR(KEY).decrypt(encrypted)
    if decrypted != plain or encrypted == plain:
        raise AssertionError("decrypted it is another text")
    return {"checksum": f"{zlib.crc32(encrypted):08x}", "bytes": len(encrypted)}
