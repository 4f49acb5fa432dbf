"""Messages: what goes in comes out, and anything else is refused with a named error."""

import json
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kip.errors import MessageError
from kip.workers import codec, wire
from kip.workers.codec import PREFIX, Message, decode, encode

ARRAYS = st.dictionaries(
    st.text(max_size=5),
    st.sampled_from(sorted(codec.DTYPES)).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3))
    ),
    max_size=codec.MAX_ARRAYS,
)
FIELDS = st.dictionaries(st.text(max_size=5), st.integers(-9, 9) | st.text(max_size=5) | st.none() | st.booleans())


def packed(header, body=b"", *, magic=codec.MAGIC, version=codec.VERSION, flags=0, lengths=None):
    """Wrap a header and a body in a right checksum, so that only what is inside can be refused."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    lengths = lengths or (len(text), len(body))
    return PREFIX.pack(magic, version, flags, *lengths, codec.checksum(text, body)) + text + body


def entry_of(*entry):
    return {"kind": "k", "fields": {}, "arrays": [list(entry)]}


@given(st.text(max_size=9), FIELDS, ARRAYS)
def test_what_goes_in_comes_out(kind, fields, arrays):
    out = decode(encode(Message(kind, fields, arrays)))
    assert (out.kind, out.fields, list(out.arrays)) == (kind, fields, list(arrays))
    for name, array in arrays.items():
        assert out.arrays[name].dtype == array.dtype
        assert out.arrays[name].tobytes() == array.tobytes()
        assert out.arrays[name].shape == array.shape


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data):
    with pytest.raises(MessageError):
        decode(data)


@given(st.data())
def test_any_changed_bit_and_any_cut_is_refused(data):
    whole = encode(Message("task", {"a": 1}, {"x": np.arange(5.0)}))
    changed = bytearray(whole)
    changed[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(MessageError):
        decode(bytes(changed))
    with pytest.raises(MessageError):
        decode(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(MessageError, match="another length"):
        decode(whole + b"x")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (packed({}, magic=b"EVIL"), "no message of kip's"),
        (packed({}, version=1), "another version"),
        (packed({}, flags=1), "another version"),
        (packed({}, lengths=(1 << 31, 0)), "too large"),
        (packed({}, lengths=(2, 1 << 62)), "too large"),
        (packed(b"\xff\xfe"), "not JSON"),
        (packed(b"[" * 100_000), "not JSON"),
        (packed(b"NaN"), "not JSON"),
        (packed([1]), "header"),
        (packed({"kind": "k"}), "header"),
        (packed({"kind": 1, "fields": {}, "arrays": []}), "wrong types"),
        (packed({"kind": "k", "fields": [], "arrays": []}), "wrong types"),
        (packed({"kind": "k", "fields": {}, "arrays": [0] * 99}), "too many"),
        (packed(entry_of("x", "object", [1]), b"12345678"), "an array"),
        (packed(entry_of("x", "float32", [-1])), "an array"),
        (packed(entry_of("x", "float32", [True]), b"1234"), "an array"),
        (packed(entry_of("x", "float32", [1, 1, 1, 1, 1]), b"1234"), "an array"),
        (packed(entry_of("x", "float32", [1 << 29, 1 << 29])), "do not fit"),
        (packed(entry_of("x", "float32", [1 << 30, 0, 1 << 30, 1 << 30])), "an array"),
        (packed(entry_of("x", "float32", [2]), b"1234"), "do not fit"),
        (packed(entry_of("x", "float32", [1]), b"12345"), "left over"),
        (packed(entry_of(5, "float32", [1]), b"1234"), "an array"),
    ],
)
def test_each_kind_of_malformed_message_is_named(data, match):
    with pytest.raises(MessageError, match=match):
        decode(data)


def test_no_array_of_objects_is_sent():
    with pytest.raises(MessageError, match="object"):
        encode(Message("k", {}, {"x": np.array([object()])}))


def test_a_message_beyond_the_limits_is_not_sent(monkeypatch):
    monkeypatch.setattr(codec, "MAX_BODY", 100)
    with pytest.raises(MessageError, match="too large"):
        encode(Message("k", {}, {"x": np.zeros(101, np.uint8)}))


def test_the_layout_is_what_the_page_says():
    """Written out by hand, so that a change of the layout has to change the version."""
    data = encode(Message("k", {"a": 1}, {"x": np.array([1.0], np.float32)}))
    header = b'{"kind": "k", "fields": {"a": 1}, "arrays": [["x", "float32", [1]]]}    '
    body = struct.pack("<f", 1.0)
    assert data == struct.pack("<4sHHIQI", b"KIPW", 2, 0, len(header), 4, zlib.crc32(header + body)) + header + body


def test_the_checksum_of_a_long_body_is_what_the_page_says():
    numbers = np.random.default_rng(0).integers(0, 1 << 63, 8 * 257 + 3, np.int64)
    data = encode(Message("k", {}, {"x": numbers}))
    length, _, crc = struct.unpack_from("<IQI", data, 8)
    sums = [sum(int(number) for number in numbers[lane : 8 * 257 : 257]) % (1 << 64) for lane in range(257)]
    words = struct.pack("<257Q", *sums) + numbers[8 * 257 :].tobytes()
    assert crc == zlib.crc32(data[24 : 24 + length] + words)


@pytest.mark.parametrize("size", [8_000, 20_000, 1 << 20])
def test_damage_in_a_long_body_is_found(size):
    rng = np.random.default_rng(0)
    whole = encode(Message("k", {}, {"x": rng.standard_normal(size // 8)}))
    for _ in range(50):
        first, count = rng.integers(24, len(whole)), rng.integers(1, 3000)
        changed = bytearray(whole)
        changed[first : first + count] = rng.bytes(len(changed[first : first + count]))
        with pytest.raises(MessageError):
            decode(bytes(changed))


def test_parts_of_a_message_that_changed_places_are_found():
    rng = np.random.default_rng(0)
    whole = encode(Message("k", {}, {"x": rng.standard_normal(4 * wire.PART // 8)}))
    parts = [whole[first : first + wire.PART] for first in range(0, len(whole), wire.PART)]
    with pytest.raises(MessageError, match="checksum"):
        decode(b"".join([parts[0], parts[2], parts[1], *parts[3:]]))


def test_messages_of_one_header_do_not_share_what_can_be_changed():
    data = encode(Message("k", {"a": 1}))
    decode(data).fields["a"] = 2
    assert decode(data).fields == {"a": 1}
