"""The arrays of a `.pt` file, read without torch and without running anything that the file names.

`torch.save` writes a zip archive: `NAME/data.pkl`, a pickle of the structure, and `NAME/data/KEY`, the bytes of a
storage. `kip.data.pickle_machine` goes through the structure; this file says what it may name:

| in the file | here |
|---|---|
| tensors, parameters, NumPy arrays | NumPy arrays; bfloat16 becomes float32, which holds each of its values |
| NumPy's scalars | numbers |
| ordered dictionaries | dictionaries, whose keys are texts and whole numbers: entries under other keys are left out |
| settings of a program that lie beside the arrays (`LEFT_OUT`) | None |
| anything else | refused by its name |

A tensor is held against the bytes of its storage, in whole numbers of Python, before it is made; all arrays together
take no more than `kip.storage.bounds.file_bytes`.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kip.data import pickle_machine
from kip.data.pickle_machine import LeftOut, Name, Unfinished, escaped
from kip.errors import DataError, KipError
from kip.storage import bounds

STRUCTURE_BYTES = 4 << 20
"""The largest `data.pkl` that is read: the structure alone, without the arrays."""
MEMBERS = 100_000
"""The most files in the archive."""
AXES = 16
"""The most axes of an array."""
LONGEST = 2**31
"""The longest axis of an array without values."""
ENTRY_BYTES = 1000
"""Bytes that an entry counts for which is copied from another container; its time counts more than its memory."""
BFLOAT16 = "bfloat16"
"""The upper half of a float32, which NumPy has no type for."""
TYPES = {
    "float64": "<f8", "float32": "<f4", "float16": "<f2", "bfloat16": BFLOAT16, "int64": "<i8", "int32": "<i4",
    "int16": "<i2", "int8": "<i1", "uint8": "<u1", "uint16": "<u2", "uint32": "<u4", "uint64": "<u8", "bool": "?",
}  # fmt: skip
"""NumPy's types of torch's tensors."""
STORAGES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "<i1", "ByteStorage": "<u1", "BoolStorage": "?",
    "BFloat16Storage": BFLOAT16, "UntypedStorage": "<u1",
}  # fmt: skip
"""NumPy's types of torch's storages."""
LEFT_OUT = {
    "argparse.Namespace", "types.SimpleNamespace", "easydict.EasyDict", "yacs.config.CfgNode", "typing.Any",
    "omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig", "omegaconf.nodes.AnyNode",
    "omegaconf.base.Metadata", "omegaconf.base.ContainerMetadata", "torch.device", "torch.Generator",
    "datetime.datetime", "datetime.timedelta", "numpy.ndarray",
    *(f"{module}.{system}Path" for module in ("pathlib", "pathlib._local") for system in ("", "Posix", "Windows")),
    *(f"{module}.{name}" for module in ("builtins", "__builtin__")
      for name in ("object", "list", "dict", "tuple", "set", "int", "float", "bool", "str")),
}  # fmt: skip
"""Names of what authors save beside their arrays, and of what these objects are made of. They are not called."""


def read(path: Path) -> Any:
    """Return what a `.pt` file holds: tensors as NumPy arrays, within the lists, tuples and dictionaries of the file.

    Arrays are read-only, and a list may hold another many times: whoever joins them counts first.

    Raises:
        DataError: if the file cannot be read, is of torch's format before 1.6, names what is neither an array nor of
            `LEFT_OUT`, or asks for more memory than a file may take.
    """
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is no regular file", expected="a file of torch.save")
    try:
        with zipfile.ZipFile(path) as archive:
            storages = _Storages(path, archive)
            return pickle_machine.run(path, storages.structure(), _Arrays(path, storages))
    except KipError:
        raise
    except FileNotFoundError:
        raise DataError(f"no file {path}", expected="a file of torch.save") from None
    except zipfile.BadZipFile:
        raise DataError(
            f"{path} is no zip archive",
            expected="a file of torch.save since torch 1.6",
            remedy="Load an older file with torch and save its arrays by numpy.savez.",
        ) from None
    except Exception as error:  # what pickletools and zipfile raise on a damaged file is no closed list
        raise DataError(f"{path} cannot be read as a .pt file", got=f"{type(error).__name__}: {error}") from None


class _Storages:
    """The files of an archive, and the memory that is left for arrays.

    Args:
        path: the file.
        archive: the file, opened.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile):
        names = archive.namelist()
        structures = [name for name in names if name.endswith("/data.pkl")]
        if len(names) > MEMBERS or len(structures) != 1:
            raise DataError(
                f"{path} is no file of torch.save",
                got=f"{len(names)} files with {len(structures)} structures",
                expected=f"one structure NAME/data.pkl, and at most {MEMBERS} files",
            )
        self._path, self._archive = path, archive
        self._folder = structures[0].removesuffix("data.pkl")
        self._left = self._most = bounds.file_bytes(path.stat().st_size)
        self._contents: dict[str, bytes] = {}

    def structure(self) -> bytes:
        """Return the pickle."""
        order = f"{self._folder}byteorder"
        if order in self._archive.namelist() and self._read(order, 64) != b"little":
            raise DataError(f"{self._path}: its byte order", expected="little, as almost all machines have it")
        return self._read(f"{self._folder}data.pkl", STRUCTURE_BYTES)

    def size(self, key: str) -> int:
        """Return the bytes of a storage, as the archive says; nothing is unpacked."""
        return self._archive.getinfo(f"{self._folder}data/{key}").file_size

    def content(self, key: str) -> bytes:
        """Return the bytes of a storage."""
        if key not in self._contents:
            self.take(self.size(key))
            self._contents[key] = self._read(f"{self._folder}data/{key}", self._most)
        return self._contents[key]

    def take(self, count: int) -> None:
        """Count bytes before an array of so many is made."""
        self._left -= count
        if self._left < 0:
            raise DataError(
                f"{self._path}: its arrays take too much memory",
                expected=f"at most {self._most >> 20} MiB",
                remedy=f"Set ${bounds.FILE_VARIABLE} to more MiB if you trust the file.",
            )

    def _read(self, name: str, most: int) -> bytes:
        member = self._archive.getinfo(name)
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.file_size > most:
            raise DataError(
                f"{self._path}: {escaped(name)}",
                got=f"{member.file_size} bytes, compressed by {member.compress_type}",
                expected=f"at most {most} bytes, stored or deflated",
            )
        return self._archive.read(member)


class _Storage(LeftOut):
    """The bytes of some tensors.

    Args:
        key: their name in the archive.
        kind: the type of their values.
        size: how many bytes they are.
    """

    def __init__(self, key: str, kind: str, size: int):
        self.key, self.kind, self.size = key, kind, size


class _Type(LeftOut):
    """A type of NumPy's: its code, such as `f8`, and its byte order, which comes later."""

    def __init__(self, code: str):
        self.code, self.swapped = code, False

    @property
    def dtype(self) -> np.dtype:
        """The type."""
        return np.dtype(f">{self.code}" if self.swapped else f"<{self.code}")


class _Array(Unfinished):
    """An array of NumPy's, whose values come later."""


class _Arrays:
    """The names that a `.pt` file may use: the vocabulary of its structure.

    Args:
        path: the file, for errors.
        storages: its bytes.
    """

    def __init__(self, path: Path, storages: _Storages):
        self._path, self._storages = path, storages
        rebuilt = dict.fromkeys(("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"), self._tensor)
        rebuilt |= dict.fromkeys(("_rebuild_parameter", "_rebuild_parameter_with_state"), self._parameter)
        self._functions: dict[str, Callable[..., Any]] = {
            **{f"torch._utils.{name}": function for name, function in rebuilt.items()},
            "torch._tensor._rebuild_from_type_v2": self._of_type,
            "torch.Size": self._size,
            "collections.OrderedDict": self._dictionary,
            "collections.defaultdict": self._dictionary,
            "numpy.dtype": self._numpy_type,
            "_codecs.encode": self._encoded,
        }
        for core in ("numpy.core", "numpy._core"):
            self._functions[f"{core}.multiarray._reconstruct"] = lambda *_: _Array()
            self._functions[f"{core}.multiarray.scalar"] = self._scalar
            self._functions[f"{core}.numeric._frombuffer"] = self._from_buffer

    def named(self, text: str) -> Name:
        """Return a name of the closed list."""
        kind = text.removeprefix("torch.").removeprefix("cuda.").removeprefix("storage.")
        if text in LEFT_OUT or text in self._functions:
            return Name(text)
        if text.startswith("torch.") and (kind in STORAGES or kind in TYPES):
            return Name(kind)
        raise DataError(
            f"{self._path} names code",
            got=escaped(text),
            expected="tensors, lists and dictionaries alone",
            remedy="Nothing of it was run. Load it where you trust it, and save its arrays by numpy.savez.",
        )

    def called(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """Return what a function of arrays gives; objects of `LEFT_OUT` stay out."""
        if name in self._functions:
            return self._functions[name](*arguments)
        if name in LEFT_OUT:
            return LeftOut()
        raise self._refused("it calls what is no function", name)

    def built(self, thing: Any, state: Any) -> None:
        """Say the values of an array, or the byte order of a type; other objects have nothing to say."""
        if isinstance(thing, _Array):
            if not isinstance(state, tuple) or len(state) != 5:
                raise self._refused("it has an array of another form")
            thing.value = self._values(state[4], state[2], state[1], "F" if state[3] is True else "C")
        elif isinstance(thing, _Type):
            if not isinstance(state, tuple) or len(state) < 2:
                raise self._refused("it has a type of another form")
            thing.swapped = state[1] == ">"
        elif not isinstance(thing, LeftOut | dict | np.ndarray):
            raise self._refused("it sets attributes of what has none", type(thing).__name__)

    def outside(self, pid: Any) -> _Storage:
        """Return a storage."""
        if not isinstance(pid, tuple) or len(pid) != 5:
            raise self._refused("it has a storage of another form")
        word, kind, key, _, count = pid
        kind = STORAGES.get(kind.text) if isinstance(kind, Name) else None
        is_number = isinstance(key, str) and len(key) < 20 and key.isascii() and key.isdecimal()
        if not isinstance(word, str) or word != "storage" or kind is None or not is_number or not _is_whole(count):
            raise self._refused("it has a storage of another form")
        have, wanted = self._storages.size(key), count * _itemsize(kind)
        if have < wanted:
            raise self._refused("it has a storage that is cut", f"{have} bytes", f"{wanted}")
        return _Storage(key, kind, wanted)

    def _refused(self, problem: str, got: object = None, expected: str | None = None) -> DataError:
        return DataError(f"{self._path}: {problem}", got=got, expected=expected)

    def _tensor(self, storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> np.ndarray:
        """Return a tensor's values; a shape and strides that leave its storage are refused."""
        if not isinstance(storage, _Storage):
            raise self._refused("it has a tensor without a storage", type(storage).__name__)
        kind = storage.kind
        if len(rest) > 2 and isinstance(rest[2], Name):  # the third form says the type of the values
            kind = TYPES.get(rest[2].text)
            if kind is None:
                raise self._refused("it has a tensor of another type", rest[2].text)
        if not (_is_shape(shape) and _is_shape(strides) and _is_whole(offset) and len(shape) == len(strides)):
            raise self._refused("it has a tensor outside its storage", "a shape, strides or an offset that are none")
        itemsize, count = _itemsize(kind), math.prod(shape)
        values = storage.size // itemsize
        last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides))
        # A stride of 0 repeats values: a small file must not ask for a large array.
        if (count and last >= values) or count > values or max(shape, default=0) > LONGEST:
            raise self._refused(
                "it has a tensor outside its storage", f"shape {tuple(shape)}, strides {tuple(strides)}"[:200]
            )
        self._storages.take(count * (itemsize if kind != BFLOAT16 else 10))
        bits = kind if kind != BFLOAT16 else "<u2"
        if not count:
            return np.zeros(shape, bits if kind != BFLOAT16 else np.float32)
        flat = np.frombuffer(self._storages.content(storage.key), bits, last + 1 - offset, offset * itemsize)
        view = np.lib.stride_tricks.as_strided(flat, shape, [stride * itemsize for stride in strides], writeable=False)
        if kind == BFLOAT16:
            return (view.astype(np.uint32) << 16).view(np.float32)
        return view if view.flags.c_contiguous else view.copy()

    def _parameter(self, tensor: Any, *_: Any) -> Any:
        return tensor

    def _of_type(self, function: Any, _: Any, arguments: Any, *__: Any) -> Any:
        """Return a tensor of a subclass."""
        if not isinstance(function, Name) or not function.text.startswith("torch._utils._rebuild_tensor"):
            raise self._refused("it calls what is no function")
        return self._tensor(*arguments)

    def _size(self, sides: Any = (), *_: Any) -> tuple[Any, ...]:
        if not _is_shape(sides):
            raise self._refused("it has a shape of another form")
        return tuple(sides)

    def _dictionary(self, pairs: Any = (), *_: Any) -> dict[Any, Any]:
        pairs = pairs if isinstance(pairs, list) else []  # a default dictionary has a type here
        self._storages.take(ENTRY_BYTES * len(pairs))
        if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
            raise self._refused("it has a dictionary of another form")
        return pickle_machine.entries(pairs)

    def _numpy_type(self, code: Any, *_: Any) -> _Type:
        if not isinstance(code, str) or not re.fullmatch(r"b1|[iu][1248]|f[248]|U\d{1,4}", code):
            raise self._refused("it has an array of another type", escaped(code) if isinstance(code, str) else None)
        return _Type(code)

    def _scalar(self, kind: Any, content: Any) -> Any:
        return self._values(content, kind, (), "C").item()

    def _from_buffer(self, content: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
        is_fortran = isinstance(order, str) and order == "F"
        return self._values(content, kind, shape, "F" if is_fortran else "C")

    def _values(self, content: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
        """Return an array of NumPy's from its bytes."""
        if not isinstance(kind, _Type) or not isinstance(content, bytes | bytearray) or not _is_shape(shape):
            raise self._refused("it has an array of another form")
        if math.prod(shape) * kind.dtype.itemsize != len(content) or max(shape, default=0) > LONGEST:
            raise self._refused("it has an array outside its bytes", f"{kind.dtype} {shape}"[:200], f"{len(content)}")
        self._storages.take(len(content))
        return np.frombuffer(bytes(content), kind.dtype).reshape(shape, order=order)

    def _encoded(self, text: Any, encoding: Any = "latin1", *_: Any) -> bytes:
        if not isinstance(text, str) or not isinstance(encoding, str) or encoding != "latin1":
            raise self._refused("it has bytes of another form")
        self._storages.take(len(text))
        return text.encode("latin1")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _is_shape(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) <= AXES and all(map(_is_whole, value))


def _itemsize(kind: str) -> int:
    return 2 if kind == BFLOAT16 else np.dtype(kind).itemsize
