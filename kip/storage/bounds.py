"""Bounds on what a file from elsewhere may take: they are held against what its header says, before it is decoded.

| variable | default | bounds |
|---|---|---|
| `KIP_FILE_MIB` | 2048 | MiB that the arrays of one file take in memory, unless the file itself has an eighth of that |
| `KIP_PICTURE_MEGAPIXELS` | 64 | millions of pixels of a picture, and of all pictures that are decoded at one time |

A small file can ask for any memory: a compressed array of zeros is a thousandth of its size, and a picture of one
colour is less. Who trusts a file sets the variable for one command.
"""

from __future__ import annotations

import os

from kip.errors import ConfigError

FILE_VARIABLE, FILE_MIB = "KIP_FILE_MIB", 2048
EXPANSION = 8
"""An archive of photographs is compressed to half of its size, one of drawings or digits to a fifth."""
PICTURE_VARIABLE, PICTURE_MEGAPIXELS = "KIP_PICTURE_MEGAPIXELS", 64
MOST_CLASSES = 100_000
"""The most classes or label entries of a set: ImageNet has 21 841, and networks have some thousand features."""


def file_bytes(size: int) -> int:
    """Return the bytes that the arrays of a file of `size` bytes may take in memory.

    Raises:
        ConfigError: if $KIP_FILE_MIB is no whole number.
    """
    return max(_whole_number(FILE_VARIABLE, FILE_MIB) << 20, EXPANSION * size)


def picture_pixels() -> int:
    """Return the pixels that a picture may have.

    Raises:
        ConfigError: if $KIP_PICTURE_MEGAPIXELS is no whole number above 0.
    """
    return max(1, _whole_number(PICTURE_VARIABLE, PICTURE_MEGAPIXELS)) * 10**6


def _whole_number(variable: str, default: int) -> int:
    given = os.environ.get(variable)
    if not given:
        return default
    if not (given.isascii() and given.isdecimal() and len(given) < 10):
        raise ConfigError(f"${variable}", got=repr(given), expected=f"a whole number, such as {default}")
    return int(given)
