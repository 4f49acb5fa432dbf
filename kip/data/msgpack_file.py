"""The arrays of a checkpoint that Flax wrote as msgpack, read without making anything that the file names.

`flax.training.checkpoints` writes nested maps; an array is an extension of type 1, and a NumPy scalar one of type 3,
that hold the packed triple of shape, name of the dtype, and bytes. Public code of RCIG keeps its set so: `x_proto` and
`y_proto`, the learned ones under `params`, and their moving average under `ema_average`.

Maps, strings, numbers and such arrays are read, and everything else is refused. The lengths that the file states are
bounded, and so is the number of its values, so that a file takes little more memory than its own size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from kip.errors import DataError

FILE_BYTES = 1 << 30
"""The largest file that is read."""
LONGEST_LIST, LARGEST_MAP = 64, 4096
"""The most entries of a list and of a map; a network has fewer layers, and an array fewer axes."""
MOST_VALUES = 100_000
"""The most entries of all lists and maps together. An empty map is one byte of the file and 64 bytes in memory."""
ARRAY, SCALAR = 1, 3
"""Flax's types of extensions."""
DTYPES = (
    "float16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
)
"""The dtypes of arrays that are read."""


def read(path: Path) -> Any:
    """Return the maps of a file, with arrays as NumPy arrays.

    Raises:
        DataError: if the file cannot be read, is too large, or holds anything but maps and arrays.
    """
    try:
        size = path.stat().st_size
        if size > FILE_BYTES:
            raise DataError(f"{path} is too large", got=f"{size >> 20} MiB", expected=f"at most {FILE_BYTES >> 20} MiB")
        return _unpacked(path.read_bytes(), _array)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"no file {path}", expected="a checkpoint of Flax") from None
    except Exception as error:  # what msgpack raises on a damaged file is no closed list
        raise DataError(
            f"{path} cannot be read as a checkpoint of Flax",
            got=f"{type(error).__name__}: {error}",
            expected="msgpack, as flax.training.checkpoints writes it",
        ) from None


def read_set(path: Path) -> dict[str, np.ndarray]:
    """Return `images` and `labels` of a checkpoint of RCIG's public code: their moving average, where it has one.

    Raises:
        DataError: as `read`, or if there is no set in it, or one with values that are not finite.
    """
    held = read(path)
    for where in ("ema_average", "params"):
        part = held.get(where) if isinstance(held, dict) else None
        if isinstance(part, dict) and {"x_proto", "y_proto"} <= part.keys():
            images, labels = part["x_proto"], part["y_proto"]
            break
    else:
        keys = ", ".join(map(str, held)) if isinstance(held, dict) else type(held).__name__
        raise DataError(f"{path} holds no set", got=keys[:200], expected="`ema_average` with `x_proto` and `y_proto`")
    for name, array in (("x_proto", images), ("y_proto", labels)):
        if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or not np.isfinite(array).all():
            got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            raise DataError(f"{name} of {path}", got=got, expected="finite floats")
    return {"images": images, "labels": labels}


def _unpacked(content: bytes, extension: Callable[[int, bytes], Any]) -> Any:
    count = 0

    def counted(part: Any) -> Any:
        nonlocal count
        count += len(part)
        if count > MOST_VALUES:
            raise DataError("a checkpoint of Flax with too many values", expected=f"at most {MOST_VALUES} entries")
        return part

    return msgpack.unpackb(
        content,
        ext_hook=extension,
        object_hook=counted,
        list_hook=counted,
        raw=False,
        max_array_len=LONGEST_LIST,
        max_map_len=LARGEST_MAP,
        max_str_len=len(content),
        max_bin_len=len(content),
        max_ext_len=len(content),
    )


def _array(kind: int, content: bytes) -> np.ndarray:
    """Return the array of an extension; one whose shape and bytes disagree is refused."""
    if kind not in (ARRAY, SCALAR):
        raise DataError("a checkpoint of Flax with another kind of value", got=f"extension {kind}", expected="arrays")
    held = _unpacked(content, msgpack.ExtType)
    if not isinstance(held, list) or len(held) != 3:
        raise DataError("a checkpoint of Flax with an array of another form")
    shape, dtype, values = held
    if not isinstance(shape, list) or not all(type(side) is int and side >= 0 for side in shape):
        raise DataError("a checkpoint of Flax with an array of another form", got=f"shape {shape!r}"[:80])
    if dtype not in DTYPES or not isinstance(values, bytes):
        raise DataError("a checkpoint of Flax with an array of another form", got=f"dtype {dtype!r}"[:80])
    if math.prod(shape) * np.dtype(dtype).itemsize != len(values):
        raise DataError(
            "a checkpoint of Flax with an array that its bytes do not fill",
            got=f"{len(values)} bytes",
            expected=f"shape {tuple(shape)} of {dtype}",
        )
    return np.frombuffer(values, np.dtype(dtype).newbyteorder("<")).astype(dtype).reshape(shape)
