"""The bytes between server and worker: a small JSON header and raw arrays. Nothing is unpickled, evaluated or imported.

    KIPW | version u16 | flags u16, zero | header length u32 | body length u64 | checksum of header and body u32
    header: {"kind": ..., "fields": {...}, "arrays": [[name, dtype, shape], ...]}     body: the arrays, C order

All numbers are little-endian. Blanks at the header's end make its length a multiple of eight, so that the body is
aligned in memory. A message is refused whole if anything about it does not fit: magic, version, lengths, checksum,
header, an array's name, dtype, rank or size, or a byte that is left over. Sizes are looked at before anything is
allocated. The checksum finds damage, not malice: who may connect is the transport's concern.
"""

from __future__ import annotations

import functools
import json
import math
import struct
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from kip.errors import MessageError

MAGIC = b"KIPW"
VERSION = 2
PREFIX = struct.Struct("<4sHHIQI")
DTYPES = {"float32": "<f4", "float64": "<f8", "int64": "<i8", "uint8": "|u1"}
_NAMES = {code: name for name, code in DTYPES.items()}
MAX_HEADER = 1 << 20
MAX_BODY = 1 << 30
MOST = PREFIX.size + MAX_HEADER + MAX_BODY
"""Bytes of the longest message."""
MAX_ARRAYS = 8
MAX_RANK = 4
LANES = 257
"""Numbers of eight bytes that a long body is summed in. It is odd, so that parts of a message that changed places on
their way, which have a power of two of bytes, are found."""
SUMMED = 8 * 8 * LANES
"""Bytes from which on a body is summed before its CRC-32 is taken, which takes a third of the time."""
REMEMBERED = 512
"""Bytes of the longest header that is read once for all messages that have it, as the results of a step have."""


class Message(NamedTuple):
    """A message.

    Attributes:
        kind: what is asked or answered.
        fields: JSON-ready values.
        arrays: by name; read-only views of the message's bytes where they were decoded.
    """

    kind: str
    fields: dict[str, Any] = {}  # noqa: RUF012  # never changed
    arrays: Mapping[str, np.ndarray] = {}


def encode(message: Message, *, shared: str = "") -> bytes:
    """Return a message's bytes.

    Args:
        message: the message.
        shared: further fields that many messages have, as `encode_fields` returns them: most of a task's header is the
            same for all tasks of a step.

    Raises:
        MessageError: if it is too large, or an array's dtype or rank has no place in a message.
    """
    listed, body = [], []
    for name, array in message.arrays.items():
        dtype = _NAMES.get(array.dtype.str) or array.dtype.name
        if dtype not in DTYPES or array.ndim > MAX_RANK:
            raise MessageError(
                f"array {name!r} of a message",
                got=f"{dtype} of rank {array.ndim}",
                expected=f"rank at most {MAX_RANK}, one of {', '.join(DTYPES)}",
            )
        listed.append(f'[{_text(name)}, "{dtype}", {list(array.shape)}]')
        body.append(np.ascontiguousarray(array, DTYPES[dtype]).reshape(-1).view(np.uint8).data)
    fields = ", ".join(filter(None, [shared, encode_fields(message.fields)]))
    text = f'{{"kind": {_text(message.kind)}, "fields": {{{fields}}}, "arrays": [{", ".join(listed)}]}}'
    header = text.encode()
    header += b" " * (-len(header) % 8)
    length = sum(map(len, body))
    if len(header) > MAX_HEADER or length > MAX_BODY or len(listed) > MAX_ARRAYS:
        raise MessageError(
            "a message is too large",
            got=f"{len(header)} + {length} bytes, {len(listed)} arrays",
            expected=f"at most {MAX_HEADER} + {MAX_BODY}, {MAX_ARRAYS}",
            remedy="Let the workers load the data set themselves, or use a smaller target batch.",
        )
    whole = body[0] if len(body) == 1 else b"".join(body)
    prefix = PREFIX.pack(MAGIC, VERSION, 0, len(header), length, checksum(header, whole))
    return b"".join([prefix, header, whole])


def checksum(header: bytes | memoryview, body: bytes | memoryview) -> int:
    """Return the checksum of a message: the CRC-32 of its header and its body.

    For the body from `SUMMED` bytes on stand the sums, modulo 2^64, of every 257th number of eight bytes, and the bytes
    that fill no more row of these.
    """
    start, rows = zlib.crc32(header), len(body) // (8 * LANES)
    if len(body) < SUMMED:
        return zlib.crc32(body, start)
    lanes = np.frombuffer(body, "<u8", rows * LANES).reshape(rows, LANES)
    sums = np.add.reduce(lanes, axis=0, dtype="<u8")
    return zlib.crc32(body[rows * LANES * 8 :], zlib.crc32(sums.data, start))


def encode_fields(fields: dict[str, Any]) -> str:
    """Return the JSON of fields without its braces."""
    return json.dumps(fields)[1:-1] if fields else ""


def decode(data: bytes) -> Message:
    """Return the message that `encode` made bytes of.

    Raises:
        MessageError: if the bytes are anything else.
    """
    if len(data) < PREFIX.size:
        raise MessageError("a message is cut short", got=f"{len(data)} bytes", expected=f"at least {PREFIX.size}")
    magic, version, flags, header_length, body_length, crc = PREFIX.unpack_from(data)
    if magic != MAGIC:
        raise MessageError("these bytes are no message of kip's", got=repr(magic), expected=repr(MAGIC))
    if version != VERSION or flags:
        raise MessageError(
            "a message of another version",
            got=f"{version}, flags {flags}",
            expected=f"{VERSION}, flags 0",
            remedy="Install the same kip for the server and all workers.",
        )
    if header_length > MAX_HEADER or body_length > MAX_BODY:
        raise MessageError("a message is too large", got=f"{header_length} + {body_length} bytes")
    if len(data) != PREFIX.size + header_length + body_length:
        raise MessageError(
            "a message has another length than it says",
            got=f"{len(data)} bytes",
            expected=f"{PREFIX.size + header_length + body_length}",
        )
    place = PREFIX.size + header_length
    text, body = bytes(data[PREFIX.size : place]), memoryview(data)[place:]
    if checksum(text, body) != crc:
        raise MessageError("a message is damaged: its checksum does not fit")
    kind, fields, listed = (_remembered if header_length <= REMEMBERED else _read)(text)
    arrays: dict[str, np.ndarray] = {}
    for name, dtype, shape, count in listed:
        size = count * dtype.itemsize
        if name in arrays or place + size > len(data):
            raise MessageError("the arrays of a message do not fit its body", got=f"{name!r:.80}, {dtype}, {shape}")
        try:
            arrays[name] = np.frombuffer(data, dtype, count, place).reshape(shape) if count else np.empty(shape, dtype)
        except ValueError:  # an empty array of impossible sides
            raise MessageError("an array of a message", got=f"{name!r:.80}, {dtype}, {shape}") from None
        place += size
    if place != len(data):
        raise MessageError("a message has bytes left over", got=len(data) - place, expected="0")
    return Message(kind, dict(fields), arrays)


def _read(text: bytes) -> tuple[str, dict[str, Any], list[tuple[str, np.dtype, tuple[int, ...], int]]]:
    """Return a header's kind, its fields, and the name, dtype, shape and number of entries of each array."""
    kind, fields, listed = _header(text)
    arrays = [_array(entry) for entry in listed]
    return kind, fields, [(name, dtype, shape, math.prod(shape)) for name, dtype, shape in arrays]


_remembered = functools.lru_cache(maxsize=256)(_read)


def _header(text: bytes) -> tuple[str, dict[str, Any], list[Any]]:
    try:
        header = _DECODER.decode(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise MessageError("a message's header is not JSON", got=str(error)[:200]) from None
    if not isinstance(header, dict) or set(header) != {"kind", "fields", "arrays"}:
        raise MessageError("a message's header", got=repr(header)[:200], expected="kind, fields and arrays")
    kind, fields, listed = header["kind"], header["fields"], header["arrays"]
    if not isinstance(kind, str) or not isinstance(fields, dict) or not isinstance(listed, list):
        raise MessageError("a message's header has values of wrong types", got=repr(header)[:200])
    if len(listed) > MAX_ARRAYS:
        raise MessageError("a message has too many arrays", got=len(listed), expected=f"at most {MAX_ARRAYS}")
    return kind, fields, listed


def _array(entry: Any) -> tuple[str, np.dtype, tuple[int, ...]]:
    if (
        isinstance(entry, list)
        and len(entry) == 3
        and isinstance(entry[0], str)
        and isinstance(entry[1], str)
        and entry[1] in DTYPES
        and isinstance(entry[2], list)
        and len(entry[2]) <= MAX_RANK
        and all(type(side) is int and 0 <= side <= MAX_BODY for side in entry[2])
    ):
        return entry[0], np.dtype(DTYPES[entry[1]]), tuple(entry[2])
    raise MessageError(
        "an array of a message", got=repr(entry)[:200], expected=f"[name, dtype, shape], dtype of {', '.join(DTYPES)}"
    )


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_text = json.encoder.encode_basestring_ascii
_DECODER = json.JSONDecoder(parse_constant=_no_constant)
"""Made once: `json.loads` would make one for each message, which takes longer than reading the header."""
