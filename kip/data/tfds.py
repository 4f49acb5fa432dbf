"""Data sets from tensorflow-datasets: the only file that imports it, and TensorFlow, and only when it is called."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from kip.data import npz
from kip.errors import DataError, MissingExtraError
from kip.progress import draws_bars, inner_stage

LIBRARY = "tensorflow_datasets"


class UnknownName(LookupError):
    """tensorflow-datasets has no data set of that name; the text says so."""


def read(name: str, data_dir: Path | None = None) -> tuple[npz.Arrays, tuple[str, ...]]:
    """Read an image-classification data set, downloading and preparing it the first time.

    Sets that are known to work: mnist, fashion_mnist, svhn_cropped, cifar10, cifar100. Any other works that has an
    `image` of one fixed size, a `label`, a train split, and a test split (else its validation split serves as test).

    Args:
        name: as tensorflow-datasets spells it.
        data_dir: where it keeps its files; None: its own default, $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Returns:
        x_train, y_train, x_test, y_test, checked as `kip.data.npz.check` says; and the names of the classes.

    Raises:
        UnknownName: if there is no such data set.
        MissingExtraError: if tensorflow-datasets is not installed.
        DataError: if the set cannot be downloaded, or is not one of fixed-size images with labels.
    """
    if _is_surely_unknown(name, data_dir):
        raise UnknownName(f"no data set {name} among those of the library")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with inner_stage("loading TensorFlow, which takes a while", delay=0), _without_chatter():
            import tensorflow as tf
            import tensorflow_datasets
            from tensorflow_datasets.core.download import downloader

            # TensorFlow takes all GPU memory at its first operation, and JAX then finds none; too late once it has
            # started.
            with contextlib.suppress(RuntimeError):
                tf.config.set_visible_devices([], "GPU")
            # Its ten retries, each after twice the pause, keep a machine without a network waiting 200 s; five take
            # 6 s.
            downloader.MAX_RETRIES = 5
            if not draws_bars():
                tensorflow_datasets.disable_progress_bar()
            # Inside the try: 4.9 imports importlib_resources, which it does not declare, only when a builder is made.
            builder = tensorflow_datasets.builder(name, data_dir=data_dir, try_gcs=False)
    except ImportError as error:
        raise MissingExtraError(
            f"data set {name!r} comes from tensorflow-datasets, which cannot be imported",
            got=error,
            remedy="pip install tensorflow-datasets tensorflow importlib_resources, or put the set into a folder as "
            "NAME.npz.",
        ) from error
    except ValueError as error:  # DatasetNotFoundError, and an unknown part after the slash of a name
        version = getattr(sys.modules.get("tensorflow_datasets"), "__version__", "unknown")
        raise UnknownName(f"version {version}: {str(error).splitlines()[0]}") from None
    _check_features(name, builder.info)
    # Not through Google's bucket: looking there blocks without a network, and the original files serve as well.
    download = tensorflow_datasets.download.DownloadConfig(try_download_gcs=False)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it prints, and stdout belongs to our results
            builder.download_and_prepare(download_config=download)
    except Exception as error:  # the downloader, the network and each builder raise what they like
        raise DataError(
            f"tensorflow-datasets cannot prepare {name!r}",
            got=f"{type(error).__name__}: {error}",
            remedy=f"Check the network and the room on the disk under {builder.data_dir}, or put {name}.npz into the "
            "data folder.",
        ) from error
    test = "test" if "test" in builder.info.splits else "validation"
    if missing := {"train", test} - set(builder.info.splits):
        raise DataError(f"data set {name!r} has no {missing.pop()} split", got=", ".join(builder.info.splits))
    parts = []
    for split in ("train", test):
        # Without shuffling the order of the files is fixed, and with it which images the validation split takes.
        whole = builder.as_dataset(split=split, batch_size=-1, shuffle_files=False)
        arrays = tensorflow_datasets.as_numpy(whole)
        parts += [np.asarray(arrays["image"]), np.asarray(arrays["label"])]
    names = tuple(getattr(builder.info.features["label"], "names", None) or ())
    return npz.check(f"tensorflow-datasets {name}", *parts), names


def _is_surely_unknown(name: str, data_dir: Path | None) -> bool:
    """Return whether the library has no set of a name, as its files say; importing it for that takes many seconds.

    A set of the user's own is one that was prepared before, or is registered in this process, which then has the
    library loaded.
    """
    spec = None if LIBRARY in sys.modules else importlib.util.find_spec(LIBRARY)
    if spec is None or not spec.submodule_search_locations or ":" in name:  # NAMESPACE:NAME is a community's
        return False
    stem = name.partition("/")[0]
    prepared = data_dir or os.environ.get("TFDS_DATA_DIR") or Path("~", LIBRARY).expanduser()
    return not os.path.isdir(Path(prepared, stem)) and stem not in _names(Path(spec.submodule_search_locations[0]))


def _names(library: Path) -> set[str]:
    """Return the names of the sets in the library's folder, and some that are none.

    A set is a package in `datasets`, or a class anywhere, whose name in CamelCase is the set's in snake_case unless it
    says another.
    """
    names = {path.name for path in (library / "datasets").glob("*")}
    for path in library.glob("*/**/*.py"):
        if path.name.endswith("_test.py") or path.relative_to(library).parts[0] == "core":
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        for camel in re.findall(r"^class (\w+)", text, re.MULTILINE):
            apart = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", camel)
            names.add(re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", apart).lower())
        names.update(re.findall(r"""^\s+name(?:: [^=]*)? = ["']([\w-]+)["']""", text, re.MULTILINE))
    return names


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Drop what is written to the process's stderr: the libraries' start logs kilobytes there, past all settings."""
    try:
        before = os.dup(2)
    except OSError:  # there is none
        yield
        return
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def _check_features(name: str, info: object) -> None:
    features = getattr(info, "features", None) or {}
    if "image" not in features or "label" not in features:
        raise DataError(
            f"data set {name!r} is not one for image classification",
            got=", ".join(features) or "no features",
            expected="image and label",
        )
    if None in features["image"].shape:
        raise DataError(
            f"the images of {name!r} differ in size",
            got=f"shape {features['image'].shape}",
            expected="one size",
            remedy=f"Resize them and write {name}.npz.",
        )
