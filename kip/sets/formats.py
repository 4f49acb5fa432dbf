"""Other formats of a distilled set: a folder of pictures, PyTorch's file, a Hugging Face data set.

| format | what is written | reads it |
|---|---|---|
| `folder` | OUT/3_cat/0000.png, and OUT/labels.csv with every label entry | anything |
| `torch` | one file with a dictionary of tensors | `torch.load(OUT, weights_only=True)`, which runs no code |
| `huggingface` | a folder with one Parquet file and a card | `datasets.load_dataset("OUT")` |

Pictures show values in [0, 1] only: what a learned image has beyond black and white is cut off, and a network learns
less from it. `torch` and `huggingface` hold the preprocessed images, exactly, beside the pixels.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from kip.errors import MissingExtraError, OutputError
from kip.sets.distilled import DistilledSet
from kip.storage.files import atomic_write

NAME_BYTES = 100
"""The most bytes of a class's name in the name of a folder; file systems give a name 255, some of them 143."""
Format = Literal["npz", "folder", "torch", "huggingface"]


def write(distilled: DistilledSet, out: Path, form: Format) -> None:
    """Write a set in one of the formats above.

    Args:
        distilled: the set.
        out: the file, or for `folder` and `huggingface` a folder that does not exist yet or is empty.
        form: the format; `npz` is `kip.sets.distilled.save`.

    Raises:
        OutputError: if it cannot be written, or the folder holds something.
        MissingExtraError: if the format's library is not installed.
    """
    WRITERS[form](distilled, Path(out))


def _folder(distilled: DistilledSet, out: Path) -> None:
    with _whole_folder(out) as place:
        _pictures(distilled, place)


def _pictures(distilled: DistilledSet, out: Path) -> None:
    names = _class_names(distilled)
    pictures = io.StringIO()
    rows = csv.writer(pictures, lineterminator="\n")
    rows.writerow(["file", "class", *(f"label of {name}" for name in names[: distilled.labels.shape[1]])])
    for number, (image, label, own) in enumerate(zip(distilled.images, distilled.labels, distilled.class_index)):
        file = Path(_folder_name(own, names[own])) / f"{number:04d}.png"
        _save_picture(out / file, image)
        rows.writerow([file.as_posix(), names[own], *(f"{entry:.9g}" for entry in label)])
    atomic_write(out / "labels.csv", lambda file: file.write(pictures.getvalue().encode()))
    _save_about(distilled, out)


def _torch(distilled: DistilledSet, out: Path) -> None:
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("torch is not installed", got=error, remedy="Run `pip install torch`.") from error
    tensors: dict[str, Any] = {
        name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in _arrays(distilled, first=True).items()
    }
    tensors |= {"class_names": _class_names(distilled), "metadata": json.dumps(distilled.metadata, sort_keys=True)}
    atomic_write(out, lambda file: torch.save(tensors, file))


def _huggingface(distilled: DistilledSet, out: Path) -> None:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(
            "datasets is not installed", got=error, remedy="Run `pip install 'kip-distillation[huggingface]'`."
        ) from error
    names = _class_names(distilled)
    arrays = _arrays(distilled, first=False)
    shape = arrays["images_preprocessed"].shape[1:]
    features = datasets.Features(
        image=datasets.Image(),
        label=datasets.ClassLabel(names=names),
        soft_label=datasets.Sequence(datasets.Value("float32"), length=arrays["labels"].shape[1]),
        preprocessed=datasets.Array3D(shape=shape, dtype="float32"),
    )
    columns = {
        "image": [_picture(image) for image in arrays["images"]],
        "label": arrays["class_index"].tolist(),
        "soft_label": arrays["labels"].tolist(),
        "preprocessed": arrays["images_preprocessed"].tolist(),
    }
    whole = datasets.Dataset.from_dict(columns, features=features)
    parquet = io.BytesIO()
    whole.to_parquet(parquet)
    with _whole_folder(out) as place:
        atomic_write(place / "data" / "train-00000-of-00001.parquet", lambda file: file.write(parquet.getvalue()))
        atomic_write(place / "README.md", lambda file: file.write(_card(distilled, names).encode()))
        _save_about(distilled, place)


WRITERS: dict[str, Callable[[DistilledSet, Path], None]] = {
    "folder": _folder,
    "torch": _torch,
    "huggingface": _huggingface,
}


def _arrays(distilled: DistilledSet, *, first: bool) -> dict[str, np.ndarray]:
    """Return the set's arrays; `first` puts the channels before height and width, as PyTorch has them."""
    arrays = {name: getattr(distilled, name) for name in ("images", "images_preprocessed", "labels", "class_index")}
    if first:
        arrays |= {name: arrays[name].transpose(0, 3, 1, 2) for name in ("images", "images_preprocessed")}
    return arrays


def _class_names(distilled: DistilledSet) -> list[str]:
    """Return the names of the classes; the numbers of those that the set has, where it does not say."""
    known = distilled.class_names
    count = max(len(known), int(distilled.class_index.max()) + 1, distilled.labels.shape[1])
    return [*known, *map(str, range(len(known), count))]


def _folder_name(number: int, name: str) -> str:
    """Return the folder of a class: its number, so that folders are in its order, and its name as far as files go.

    The name is cut where it would take more bytes than file systems give; the number tells the classes apart.
    """
    plain = "".join(letter if letter.isalnum() or letter in " ._-" else "_" for letter in name)
    kept = plain.encode()[:NAME_BYTES].decode(errors="ignore").strip(" .")
    return str(number) if kept in ("", str(number)) else f"{number}_{kept}"


def _picture(image: np.ndarray) -> Any:
    from PIL import Image

    pixels = np.rint(np.clip(np.nan_to_num(image), 0, 1) * 255).astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _save_picture(path: Path, image: np.ndarray) -> None:
    atomic_write(path, lambda file: _picture(image).save(file, format="PNG"))


def _save_about(distilled: DistilledSet, out: Path) -> None:
    text = json.dumps(distilled.metadata, indent=1, sort_keys=True) + "\n"
    atomic_write(out / "metadata.json", lambda file: file.write(text.encode()))


@contextlib.contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """Give a folder to write into, which takes its name when all is written; nothing of it stays where that fails."""
    _check_empty(out)
    out = out.absolute()
    place = out.with_name(f".kip.{uuid.uuid4().hex}.tmp")
    try:
        place.mkdir(parents=True)
        yield place
        os.replace(place, out)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write {out}", got=error.strerror or repr(error)) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _check_empty(out: Path) -> None:
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise OutputError(
            f"--out {out}",
            got="something that exists",
            expected="a new or an empty folder",
            remedy="Name another folder, or remove this one.",
        )
    shutil.rmtree(out, ignore_errors=True)


def _card(distilled: DistilledSet, names: list[str]) -> str:
    """Return the card, with the figures that the set brings."""
    about, origin = distilled.metadata, distilled.origin
    accuracy = about.get("test_accuracy")
    score = "" if accuracy is None else f" It scores {100 * accuracy:.1f} % on the test images of `{origin.data.name}`."
    size = "n<1K" if len(distilled.images) < 1000 else "1K<n<10K"
    return "\n".join(
        [
            "---",
            "task_categories:",
            "- image-classification",
            "tags:",
            "- dataset-distillation",
            "size_categories:",
            f"- {size}",
            "configs:",
            "- config_name: default",
            "  data_files: data/train-*.parquet",
            "---",
            "",
            f"# {origin.data.name}, distilled to {len(distilled.images)} images",
            "",
            f"The set was made by `kip` with the method `{origin.method}` ({origin.label}).{score}",
            "",
            "| column | what |",
            "|---|---|",
            "| `image` | the image, cut to black and white at its ends |",
            f"| `label` | the class that it started from: {', '.join(names[:20])}{', ...' if names[20:] else ''} |",
            "| `soft_label` | the label that it was learned with |",
            f"| `preprocessed` | what the model saw (`{origin.preprocess.kind}`): train on these |",
            "",
            "`metadata.json` says with which settings it was made.",
            "",
        ]
    )
