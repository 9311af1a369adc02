# SPDX-License-Identifier: MIT
"""Disk images made by the kernel (tests/golden/images), kept as what they hold instead of as bytes.

An .image file begins with `size BYTES` and `sha256 HEX`; every further line is a run of sectors that are not zeros:
`SECTOR COUNT SEED FIRST` in the pattern of tests/golden/pattern.h, or `SECTOR raw BASE64` with zlib inside.
"""

import base64
import hashlib
import zlib

import testing

FOLDER = testing.SOURCE_DIR / "tests/golden/images"
MASK = (1 << 64) - 1


def pattern_sector(seed, sector):
    """What the generator `gen` writes into a sector."""
    x = (((seed << 32) ^ sector) + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    x = (x ^ (x >> 31)) & 0xFFFFFFFFF
    return "".join(f"{seed:08x} {sector:010x} {line:x} {x:09x}\n" for line in range(16)).encode()


def load(name):
    """The bytes of an image, as their digest proves."""
    head, *runs = (line.split() for line in (FOLDER / f"{name}.image").read_text("ascii").splitlines())
    image = bytearray(int(head[1]))
    digest = runs.pop(0)[1]
    for sector, what, *rest in runs:
        if what == "raw":
            data = zlib.decompress(base64.b64decode(rest[0]))
        else:
            data = b"".join(pattern_sector(int(rest[0]), int(rest[1]) + i) for i in range(int(what)))
        at = int(sector) * 512
        image[at:at + len(data)] = data
    if hashlib.sha256(image).hexdigest() != digest:
        raise AssertionError(f"{name} is not what the kernel made")
    return bytes(image)
