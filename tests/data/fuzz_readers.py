"""Give the readers of strangers' files what nobody would write: `python tests/data/fuzz_readers.py --seconds 600`.

Every file ends in a value or in an error of kip's, within a bound of memory (`resource.RLIMIT_AS`) that is held against
the largest resident memory too, since a reader may catch what the limit raises. The bytes of all storages are equal, so
that a tensor with any other byte was read outside of them.
"""

import argparse
import contextlib
import io
import json
import logging
import os
import struct
import tempfile
import time
import zipfile
import zlib
from pathlib import Path

os.environ |= {"KIP_FILE_MIB": "64", "KIP_PICTURE_MEGAPIXELS": "4"}

import msgpack
import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from kip import config, machine, sets
from kip.data import image_folder, msgpack_file, published, torch_file
from kip.errors import KipError
from kip.experiment import Experiment
from kip.methods.kernel.kip import KIP
from kip.storage import json_files as metrics
from kip.storage import npz as archives

FILL = 0xA5
MOST_MIB = 400
"""What the readers may take beside the libraries: 64 MiB of arrays, a picture of 4 megapixels, a structure of 4 MiB."""
STRUCTURE = {
    "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3", "torch._utils._rebuild_parameter",
    "torch._tensor._rebuild_from_type_v2", "collections.OrderedDict", "torch.Size", "numpy.dtype", "_codecs.encode",
    "numpy.core.multiarray.scalar", "numpy._core.multiarray._reconstruct", "numpy._core.numeric._frombuffer",
    "argparse.Namespace", "torch.FloatStorage", "torch.BFloat16Storage", "torch.LongStorage", "torch.uint16",
    "torch.storage.UntypedStorage", "builtins.list", "numpy.ndarray", "os.system", "builtins.eval",
    "kip.sets.distilled.load",
}  # fmt: skip
"""Names that structures have."""


def binary(text):
    return b"X" + struct.pack("<I", len(text)) + text


def whole(number):
    return b"J" + struct.pack("<i", number) if abs(number) < 2**31 else pickled_long(number)


def pickled_long(number):
    content = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


def row(numbers):
    return b"(" + b"".join(map(whole, numbers)) + b"t"


def named(name):
    module, _, last = name.rpartition(".")
    return b"c" + f"{module}\n{last}\n".encode()


@st.composite
def tensors(draw):
    """Return the structure of a tensor, possible or not."""
    if draw(st.booleans()):
        shape = draw(st.lists(st.integers(0, 3), max_size=4))
        storage = b"(" + binary(b"storage") + named("torch.FloatStorage") + binary(b"0") + binary(b"cpu") + b"K\x30tQ"
        if draw(st.integers(0, 2)) == 0:  # a tensor, or another value, where a storage should be
            sides = row([draw(st.integers(20, 99)), 0]) + row([1, 1])
            hollow = named("torch._utils._rebuild_tensor_v2") + b"(" + storage + b"K\0" + sides + b"\x89}tR"
            storage = draw(st.sampled_from([hollow, hollow, b"N", b"]", binary(b"text"), named("torch.FloatStorage")]))
        strides = [int(np.prod(shape[place + 1 :], dtype=object)) for place in range(len(shape))]
        permuted = draw(st.permutations(range(len(shape))))
        sides = row([shape[place] for place in permuted]) + row([strides[place] for place in permuted])
        return (
            named("torch._utils._rebuild_tensor_v2")
            + b"("
            + storage
            + whole(draw(st.integers(0, 9)))
            + sides
            + b"\x89}tR"
        )
    sides = st.one_of(st.integers(0, 6), st.sampled_from([7, 40, 10**5, 2**31, 2**40, 2**62, -1]))
    shape, strides = draw(st.lists(sides, max_size=4)), draw(st.lists(sides, max_size=4))
    if draw(st.booleans()):
        strides = [int(np.prod(shape[place + 1 :], dtype=object)) for place in range(len(shape))]
    kind = draw(st.sampled_from(["FloatStorage", "BFloat16Storage", "LongStorage", "ByteStorage", "UntypedStorage"]))
    storage = b"(" + binary(b"storage") + named(f"torch.{kind}") + binary(b"%d" % draw(st.integers(0, 3)))
    storage += binary(b"cpu") + whole(draw(st.integers(0, 40))) + b"tQ"
    form = draw(st.sampled_from(["v2", "v3"]))
    rest = b"\x89}" + (named("torch.uint16") if form == "v3" else b"")
    arguments = storage + whole(draw(st.integers(-1, 12))) + row(shape) + row(strides) + rest
    return named(f"torch._utils._rebuild_tensor_{form}") + b"(" + arguments + b"tR"


@st.composite
def numpy_arrays(draw):
    """Return the structure of an array of NumPy's, possible or not."""
    code, size = draw(st.sampled_from([(b"f4", 4), (b"i8", 8), (b"u1", 1), (b"O8", 8), (b"U3", 12), (b"V2", 2)]))
    shape = draw(st.lists(st.integers(0, 5), max_size=3))
    count = int(np.prod(shape)) * size + draw(st.sampled_from([0, 0, 0, 1, -1]))
    kind = (
        named("numpy.dtype")
        + b"("
        + binary(code)
        + b"\x89\x88tR(K\x03"
        + binary(b"<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    content = binary(bytes([FILL]).decode("latin1").encode() * max(0, count)) + binary(b"latin1")
    content = named("_codecs.encode") + b"(" + content + b"tR"
    made = named("numpy._core.multiarray._reconstruct") + b"(" + named("numpy.ndarray") + b"(K\x00tC\x01btR"
    return made + b"(K\x01" + row(shape) + kind + b"\x89" + content + b"tb"


PIECES = st.one_of(
    tensors(),
    numpy_arrays(),
    st.sampled_from(sorted(STRUCTURE)).map(named),
    st.binary(max_size=6).map(lambda text: binary(text)),
    st.integers(-(2**70), 2**70).map(whole),
    st.integers(0, 3).map(lambda key: b"q" + bytes([key])),
    st.integers(0, 3).map(lambda key: b"h" + bytes([key])),
    st.integers(0, 2**32 - 1).map(lambda key: b"r" + struct.pack("<I", key)),
    st.sampled_from(b"(]})aesutld\x85\x86\x8721RbQN\x88\x81\x93\x94.").map(lambda code: bytes([code])),
    st.binary(min_size=1, max_size=2),
)


def mutated(draw, content):
    """Return bytes of which some are changed, or that are cut."""
    content = bytearray(content)
    for place, value in draw(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4)):
        if content:
            content[int(place * len(content))] = value
    cut = draw(st.one_of(st.none(), st.none(), st.none(), st.floats(0, 1)))
    return bytes(content) if cut is None else bytes(content[: int(cut * len(content))])


@st.composite
def torch_files(draw):
    pieces = draw(st.lists(PIECES, max_size=30))
    if draw(st.integers(0, 3)):  # a list of what is whole
        parts = draw(st.lists(st.one_of(tensors(), numpy_arrays()), min_size=1, max_size=4))
        pieces = [b"(", *parts, *pieces[: draw(st.integers(0, 1))], b"l" if draw(st.booleans()) else b"t"]
    content, out = b"\x80\x02" + b"".join(pieces) + b".", io.BytesIO()
    method = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("archive/data.pkl", content)
        for key, size in enumerate([192, *draw(st.lists(st.integers(0, 300), max_size=3))]):
            archive.writestr(f"archive/data/{key}", bytes([FILL]) * size)
    return mutated(draw, out.getvalue()) if draw(st.integers(0, 3)) == 0 else out.getvalue()


@st.composite
def array_files(draw):
    """Return a `.npz` archive whose headers say anything."""
    out = io.BytesIO()
    method = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2]))
    sides = st.one_of(st.integers(0, 5), st.sampled_from([-1, 10**5, 2**31, 2**48, 2**63, 2**70]))
    with zipfile.ZipFile(out, "w", method) as archive:
        for name in draw(
            st.lists(st.sampled_from(["images", "labels", "x_train", "y_train", "\x1b[2J", "a/b"]), max_size=3)
        ):
            kinds = [
                "<f4",
                "|u1",
                "<i8",
                "O",
                "<U3",
                "V2",
                ("<f4", (3,)),
                [("a", "<f4")],
                "<M8[s]",
                "zz",
                "<U999999999",
            ]
            about = {
                "descr": draw(st.sampled_from(kinds)),
                "fortran_order": draw(st.booleans()),
                "shape": tuple(draw(st.lists(sides, max_size=4))),
            }
            text = draw(
                st.sampled_from(
                    [repr(about), repr(about), repr(about), "(" * 9000, "{" + "'a':1," * 999 + "}", "1" * 5000]
                )
            )
            version = draw(st.sampled_from([1, 1, 2, 3]))
            length = draw(st.sampled_from([len(text), len(text), len(text), 2**16 - 1, 2**32 - 1]))
            length = struct.pack("<H", min(length, 2**16 - 1)) if version == 1 else struct.pack("<I", length)
            size = draw(st.sampled_from([0, 8, 64, 10**7]))
            if (
                draw(st.booleans())
                and all(0 <= side <= 5 for side in about["shape"])
                and isinstance(about["descr"], str)
            ):
                size = int(np.prod(about["shape"])) * {"<f4": 4, "|u1": 1, "<i8": 8, "<U3": 12, "V2": 2}.get(
                    about["descr"], 1
                )
            archive.writestr(f"{name}.npy", b"\x93NUMPY" + bytes([version, 0]) + length + text.encode() + bytes(size))
    return mutated(draw, out.getvalue()) if draw(st.integers(0, 2)) == 0 else out.getvalue()


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from([10**400, -1, 2**63, "x" * 300, "\ud800"]),
        st.floats(),
        st.text(max_size=5),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)


def replaced(draw, value):
    """Return a JSON value of which a part is another."""
    if isinstance(value, dict | list) and value and draw(st.integers(0, 3)):
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key, copy = draw(st.sampled_from(keys)), value.copy()
        if isinstance(copy, dict) and draw(st.integers(0, 9)) == 0:
            del copy[key]
        else:
            copy[key] = replaced(draw, value[key])
        return copy
    return draw(JSON)


EXPERIMENT = Experiment(method=KIP())
ORIGIN = sets.Origin.of(EXPERIMENT)
METADATA = {
    "format": 1,
    "experiment": ORIGIN.experiment,
    "train_sha256": "0" * 64,
    "preprocess": {},
    "step": 0,
    "method": {"label": ORIGIN.label, "labels_are": ORIGIN.labels_are, "judge": config.to_dict(ORIGIN.judge)},
    "versions": {"kip": "0"},
    "class_names": ["a", "b"],
    "learning_rates": [0.1],
    "deployment_steps": 3,
}


def set_file(metadata, columns=3):
    arrays = {
        "images": np.zeros((2, 3, 3, 1), np.float32),
        "images_preprocessed": np.zeros((2, 3, 3, 1), np.float32),
        "labels": np.zeros((2, columns), np.float32),
        "class_index": np.arange(2),
        "image_statistics": np.zeros((2, 2)),
    }
    out = io.BytesIO()
    np.savez_compressed(out, **arrays, metadata=np.array(metadata))
    return out.getvalue()


@st.composite
def json_files(draw):
    content = METADATA
    for _ in range(draw(st.integers(1, 3))):
        content = replaced(draw, content)
    text = json.dumps(content)
    if draw(st.integers(0, 4)) == 0:
        text = draw(st.sampled_from(["[" * 10**5, "{" * 10**5, '{"a":' * 10**4, "1" * 10**5, "\0", "NaN", "1e999"]))
    return text


@st.composite
def flax_arrays(draw):
    """Return an extension that says it is an array, possible or not."""
    shape = draw(st.lists(st.one_of(st.integers(0, 4), st.sampled_from([-1, 2**31, 2**62, "2", None])), max_size=4))
    dtype = draw(st.sampled_from(["float32", "float32", "int64", "bool", "bfloat16", "object", "O", "<U9", 7]))
    count = int(np.prod([side if isinstance(side, int) and 0 <= side < 5 else 1 for side in shape], dtype=int))
    values = bytes(max(0, count * 4 + draw(st.sampled_from([0, 0, 0, 1, -1]))))
    triple = draw(st.sampled_from([[shape, dtype, values], [shape, dtype, values], [shape, dtype], {"a": 1}, values]))
    return msgpack.ExtType(draw(st.sampled_from([1, 1, 1, 2, 3, 99])), msgpack.packb(triple))


FLAX = st.recursive(
    st.one_of(flax_arrays(), st.none(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(["params", "ema_average", "x_proto", "y_proto", "1"]), inner, max_size=4),
    ),
    max_leaves=8,
)
FLOODS = [
    b"\x91" * 10**5,
    b"\x81\x00" * 10**5,
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdc\x00\x40" + (b"\xdc\x00\x40" + b"\x80" * 64) * 64,
    (b"\xdc\x00\x40" * 3 + b"\x80" * 64) * 9999,
]
"""Lists in lists, lengths beyond the file, and more empty maps than any checkpoint has."""


@st.composite
def flax_files(draw):
    if draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from(FLOODS))
    held = draw(FLAX)
    if draw(st.booleans()):
        held = {
            draw(st.sampled_from(["params", "ema_average"])): {"x_proto": draw(flax_arrays()), "y_proto": draw(FLAX)}
        }
    content = msgpack.packb(held)
    return mutated(draw, content) if draw(st.integers(0, 2)) == 0 else content


def picture_bases():
    made = []
    for form in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM"):
        for mode in ("L", "RGB"):
            out = io.BytesIO()
            Image.effect_noise((9, 7), 50).convert(mode).save(out, form)
            made.append(out.getvalue())
    return [
        *made,
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n",
        b"P6 99999 99999 255\n",
        b"8BPS\0\1" + bytes(30),
    ]


BASES = picture_bases()


@st.composite
def picture_files(draw):
    content = draw(st.sampled_from(BASES))
    if content[:4] == b"\x89PNG" and draw(st.booleans()):  # a header of any size, with its checksum
        sides = st.sampled_from([1, 7, 2000, 60_000, 2**31 - 1])
        header = b"IHDR" + struct.pack(">II", draw(sides), draw(sides)) + content[24:29]
        return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]
    return mutated(draw, content)


def check_torch(path, content):
    """Read a `.pt` file; look for bytes that no storage has."""
    path.write_bytes(content)
    held = torch_file.read(path)
    seen, left = set(), [held]
    while left:
        value = left.pop()
        if isinstance(value, np.ndarray) and value.dtype.kind != "U":
            kept = bytes([FILL]) * value.itemsize
            words = {value.tobytes()[at : at + value.itemsize] for at in range(0, value.nbytes, value.itemsize)}
            # bfloat16 is the upper half of a float32
            assert words <= ({kept, bytes(2) + kept[:2]} if value.dtype == np.float32 else {kept}), "bytes of others"
        elif isinstance(value, list | tuple | dict) and id(value) not in seen:
            seen.add(id(value))
            left += list(value.values()) if isinstance(value, dict) else list(value)
    with contextlib.suppress(KipError):
        parts, _ = published.found(path, held)
        if parts.labels is not None:
            published.scores_and_classes(parts.labels, len(parts.images), 10)


def check_arrays(path, content):
    path.write_bytes(content)
    for name in archives.array_headers(path):
        archives.stored_arrays(path, [name])
    archives.read_arrays(path)


def check_flax(path, content):
    path.write_bytes(content)
    with contextlib.suppress(KipError):
        msgpack_file.read(path)
    held = msgpack_file.read_set(path)
    assert all(np.isfinite(array).all() for array in held.values())


def check_json(path, text):
    path.write_text(text, errors="surrogatepass")
    with contextlib.suppress(KipError):
        config.from_json(Experiment, text, source="a file")
    metrics.read_object(path, ["step"])
    metrics.read_rows(path)
    if "\0" not in text:
        path.write_bytes(set_file(text))
        origin = sets.load(path).origin
        assert origin.seed >= 0


def check_picture(path, content):
    path.write_bytes(content)
    image_folder.header(path)
    assert image_folder.decoded(path, 3).dtype == np.uint8


READERS = {
    ".pt": (torch_files(), check_torch),
    ".npz": (array_files(), check_arrays),
    "JSON": (json_files(), check_json),
    "pictures": (picture_files(), check_picture),
    "msgpack": (flax_files(), check_flax),
}


def fuzz(name, examples, number, folder):
    """Give a reader so many files; return how many it refused."""
    strategy, check = READERS[name]
    refused = 0

    def one(content):
        nonlocal refused
        try:
            check(folder / "file", content)
        except KipError as error:
            refused += 1
            if "MemoryError" in str(error) or "allocate" in str(error):
                raise AssertionError(f"memory without a bound: {error}") from error

    options = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck[name] for name in HealthCheck.__members__],
        phases=[Phase.generate, Phase.shrink],
    )
    seed(number)(options(given(strategy)(one)))()
    return refused


def address_space():
    """Return the bytes of address space that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--examples", type=int, default=100, help="files for each reader in a round")
    given_options = parser.parse_args()
    import resource

    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "set.npz").write_bytes(set_file(json.dumps(METADATA)))
        sets.load(folder / "set.npz")
        for reader in READERS:  # what is imported late is no memory of the readers
            fuzz(reader, 5, 0, folder)
        most = address_space() + (MOST_MIB << 20) * 2
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        before, began, counts, rounds = (
            (machine.peak_memory_mib() or 0.0),
            time.monotonic(),
            dict.fromkeys(READERS, 0),
            0,
        )
        while not rounds or time.monotonic() - began < given_options.seconds:
            for reader in READERS:
                counts[reader] += fuzz(reader, given_options.examples, given_options.seed + rounds, folder)
            rounds += 1
        taken = (machine.peak_memory_mib() or 0.0) - before
        refused = ", ".join(f"{name} {count}" for name, count in counts.items())
        print(
            f"{rounds} rounds of {given_options.examples} files for each reader in {time.monotonic() - began:.0f} s; "
            f"refused: {refused}; memory {taken} MiB"
        )
        assert taken < MOST_MIB


if __name__ == "__main__":
    main()
