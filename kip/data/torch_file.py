"""The arrays of a `.pt` file, read without torch and without running anything that the file names.

`torch.save` writes a zip archive: `NAME/data.pkl`, a pickle of the structure, and `NAME/data/KEY`, the bytes of a
storage. A pickle is a program, so this reader knows a closed list of what it may name: tensors and storages become
NumPy arrays, ordered dictionaries become dictionaries, NumPy's own scalars are left out. Anything else is refused by
name, and nothing is ever imported.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kip.errors import DataError

STRUCTURE_BYTES = 16 << 20
"""The largest `data.pkl` that is read: the structure alone, without the arrays."""
STORAGES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "<i1", "ByteStorage": "<u1", "BoolStorage": "?",
}  # fmt: skip
"""NumPy's types of torch's storages."""


class _Ignored:
    """Stands for a value that is no array: NumPy's scalars and their types."""

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read(path: Path) -> Any:
    """Return what a `.pt` file holds: tensors as NumPy arrays, within the lists, tuples and dictionaries of the file.

    Raises:
        DataError: if the file cannot be read, is of torch's format before 1.6, or names anything but arrays.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (structure,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if archive.getinfo(structure).file_size > STRUCTURE_BYTES:
                raise DataError(f"{path}: the structure is too large", expected=f"at most {STRUCTURE_BYTES >> 20} MiB")
            folder = structure.removesuffix("data.pkl")
            return _Reader(io.BytesIO(archive.read(structure)), lambda key: archive.read(f"{folder}data/{key}")).load()
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"no file {path}", expected="a file of torch.save") from None
    except zipfile.BadZipFile:
        raise DataError(
            f"{path} is no zip archive",
            expected="a file of torch.save since torch 1.6",
            remedy="Load an older file with torch and save its arrays by numpy.savez.",
        ) from None
    except Exception as error:  # what pickle and zipfile raise on a damaged file is no closed list
        raise DataError(f"{path} cannot be read as a .pt file", got=f"{type(error).__name__}: {error}") from None


class _Reader(pickle.Unpickler):
    """An unpickler that can make arrays and containers, and nothing else."""

    def __init__(self, structure: io.BytesIO, storage: Callable[[str], bytes]):
        super().__init__(structure)
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a name of the closed list."""
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        known: dict[tuple[str, str], Any] = {
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
            ("collections", "OrderedDict"): dict,
            ("numpy.core.multiarray", "scalar"): _Ignored,
            ("numpy._core.multiarray", "scalar"): _Ignored,
            ("numpy", "dtype"): _Ignored,
            ("_codecs", "encode"): _Ignored,
        }
        if (module, name) not in known:
            raise DataError(
                "a .pt file that names code", got=f"{module}.{name}", expected="tensors, lists and dictionaries alone"
            )
        return known[module, name]

    def persistent_load(self, pid: Any) -> np.ndarray:
        """Return a storage as a flat array."""
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, str) or not str(key).isdigit():
            raise DataError("a .pt file with a storage of another form", got=repr(pid)[:80])
        array = np.frombuffer(self._storage(str(key)), dtype)
        if len(array) < int(count):
            raise DataError("a .pt file with a storage that is cut", got=f"{len(array)} values", expected=str(count))
        return array


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> np.ndarray:
    """Return a tensor's values, copied; a shape and strides that leave its storage are refused."""
    if not isinstance(storage, np.ndarray):
        raise DataError("a .pt file with a tensor without storage")
    shape, strides, offset = tuple(map(int, shape)), tuple(map(int, strides)), int(offset)
    within = len(shape) == len(strides) and min((*shape, *strides, offset), default=0) >= 0
    if within and math.prod(shape):
        last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides))
        # A stride of 0 repeats values: a small file must not ask for a large array.
        within = last < len(storage) and math.prod(shape) <= len(storage)
    if not within:
        raise DataError("a .pt file with a tensor outside its storage", got=f"shape {shape}, strides {strides}")
    bytes_apart = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, bytes_apart).copy()
