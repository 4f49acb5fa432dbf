"""The distilled set as one `.npz` file that NumPy alone can load.

| array | shape, dtype | what |
|---|---|---|
| images | (n, H, W, C) float32 | pixel space, 1.0 is white; learned images may lie somewhat outside [0, 1] |
| images_preprocessed | (n, H, W, C) float32 | what the kernel saw: train on these for the published numbers |
| labels | (n, c) float32 | mean-centred one-hot, probabilities, or learned |
| class_index | (n,) int64 | the class that each image started from |
| image_statistics | (n, 2) float64 | mean and scale put back in `images`, where preprocessing normalises each image |
| metadata | JSON string | experiment, preprocessing with its parameters, step, accuracies, versions |

`metadata` says with `deployment_steps` how long to train a network on the set, where its method finds that out; with
`learning_rates` which rates it was learned for, one for all updates or one for each; and with `method` what its labels
are, and how it is judged, so that a set is judged without its method.

`class_names` in `metadata` are the names of the classes, where the data set has names.

A set that was chosen from the train split has `indices` into it in `metadata`, and the `weights` of its images, in
their order.

Layer normalisation (ZCA `zca` and `zca_notebook`) loses each image's mean and scale, and a learned image has none of
its own: `images` is inverted with those of the natural image that it started from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kip import config, krr, machine
from kip.blocks import Blocks, KernelBlocks
from kip.data import Data
from kip.errors import ConfigError, DataError, KipError, did_you_mean, printable
from kip.experiment import Experiment, Reference
from kip.judges import AnyJudge, Judge, KernelJudge, Support
from kip.methods.contract import LabelsAre
from kip.methods.problem import State
from kip.preprocess import Preprocess, Transform
from kip.preprocess.transform import described
from kip.sets.cards import Card, cards, resolved
from kip.storage import bounds
from kip.storage.artefacts import digest
from kip.storage.files import atomic_write
from kip.storage.json_files import is_number
from kip.storage.npz import Header, array_headers, read_arrays

FORMAT = 1
METADATA_BYTES = 64 << 20
"""The largest metadata, four bytes for each letter: they hold a number or two for each of 10^6 chosen images."""


class DistilledSet(NamedTuple):
    """A distilled set in memory; the fields are those of the file, `metadata` parsed."""

    images: np.ndarray
    images_preprocessed: np.ndarray
    labels: np.ndarray
    class_index: np.ndarray
    image_statistics: np.ndarray
    metadata: dict[str, Any]

    def __repr__(self) -> str:
        """Return a line that says what the set holds; arrays would fill screens."""
        count, height, width, channels = self.images.shape
        accuracy = self.metadata.get("test_accuracy")
        return (
            f"DistilledSet({count} images of {height}x{width}x{channels}, {self.labels.shape[1]} label entries, "
            f"step {self.metadata.get('step')}, "
            f"{'not tested' if accuracy is None else f'{100 * accuracy:.1f} % on test'})"
        )

    @property
    def class_names(self) -> list[str]:
        """The names of the data set's classes; none where the set does not say."""
        return self.metadata.get("class_names") or []

    @property
    def card(self) -> Card:
        """The set's card: of a set that comes with kip, what is known of it; of another, what its file says."""
        known = {card.sha256: card for card in cards().values()}
        sha256 = digest(self.images_preprocessed, self.labels)
        if sha256 in known:
            return known[sha256]
        origin = self.origin
        return Card(
            name=None,
            data=origin.data.name,
            source=None,
            method=origin.method,
            judge=origin.judge.label,
            images=len(self.images),
            score=self.metadata.get("test_accuracy"),
            natural=None,
            preprocess=origin.preprocess.kind,
            command=None,
            evaluate="kip evaluate SET",
            seconds=None,
            sha256=sha256,
        )

    @property
    def experiment(self) -> Experiment:
        """The experiment that the set came from.

        Raises:
            ConfigError: if its method is not known here, such as a user's own. `origin` says what judging, showing and
                exporting a set need, without its method.
        """
        return _read(Experiment, self.metadata["experiment"])

    @property
    def origin(self) -> Origin:
        """The set's statements about its experiment; a set of an older kip says it through its method."""
        if "method" not in self.metadata:
            return Origin.of(self.experiment)
        about = self.metadata["method"]
        judge = _read(AnyJudge, about["judge"])
        return Origin(self.metadata["experiment"], about["label"], about["labels_are"], judge)

    @property
    def support(self) -> Support:
        """The set as a judge sees it."""
        rates = self.metadata.get("learning_rates")
        return Support(
            self.images_preprocessed,
            self.labels,
            self.metadata.get("deployment_steps"),
            None if rates is None else np.array(rates, np.float32),
        )

    def scores(
        self, images: np.ndarray, *, transform: Transform | None = None, show_progress: bool = False
    ) -> np.ndarray:
        """Return the predictions of the regression that judges the set, K(x, X_s) alpha, float64 (m, c).

        Args:
            images: pixels (m, H, W, C), uint8 or floats in which 1.0 is white, as the set's are; grey ones may be
                (m, H, W).
            transform: the fitted preprocessing; None takes the one in the set's metadata, which is whole for sets that
                are standardised or not preprocessed.
            show_progress: whether a bar is shown on stderr.

        Raises:
            ConfigError: if the set is not judged by kernel ridge regression, or if it was whitened and no `transform`
                is given.
            ShapeError: if the images are not of the set's shape.
        """
        origin = self.origin
        judge = origin.judge
        if not isinstance(judge, KernelJudge):
            raise ConfigError(
                f"predictions of a set of {origin.method}",
                got=f"the judge: {judge.label}",
                expected="a set that is judged by kernel ridge regression",
                remedy="Train a network on it: kip.transfer_set(...), or `kip compare SET`.",
            )
        applied = transform or described(self.metadata["preprocess"], self.images.shape[1:])
        if applied is None:
            raise ConfigError(
                "transform",
                got="None, for a whitened set",
                expected="the whitening that the set was made with",
                remedy="kip.fit_preprocess(distilled.origin.preprocess, train_images) fits it again.",
            )
        images = np.asarray(images)
        images = images[..., None] if images.ndim == 3 else images
        kernel, support = judge.kernels[0], np.asarray(self.images_preprocessed, origin.blocks.dtype)
        with KernelBlocks(origin.blocks) as blocks:
            alpha = krr.fit(blocks.matrix(kernel, support), self.labels, judge.ridge)
            return blocks.matrix(kernel, applied.apply(images), support, show_progress=show_progress) @ alpha

    def predict(self, images: np.ndarray, *, transform: Transform | None = None) -> np.ndarray:
        """Return the class of each image, int64 (m,), by the regression that judges the set; see `scores`.

        A class is its label column, whose name is in `class_names` where the data set has names.
        """
        return self.scores(images, transform=transform).argmax(axis=1)


class Origin(NamedTuple):
    """The statements of a set about the experiment that it came from, apart from its method's class.

    Attributes:
        experiment: JSON-ready.
        label: the kernel or network of its method.
        labels_are: what its labels are; see `kip.methods.contract`.
        judge: how it is scored.
    """

    experiment: dict[str, Any]
    label: str
    labels_are: LabelsAre
    judge: Judge

    @classmethod
    def of(cls, experiment: Experiment) -> Origin:
        """Return what the sets of an experiment say."""
        method = experiment.method
        return cls(experiment.to_dict(), method.label, method.labels_are, method.judge)

    @property
    def method(self) -> str:
        """The method's name."""
        return self.experiment["method"]["name"]

    @property
    def data(self) -> Data:
        """The data set."""
        return _read(Data, self.experiment["data"])

    @property
    def preprocess(self) -> Preprocess:
        """The preprocessing of images before the method sees them."""
        return _read(Preprocess, self.experiment["preprocess"])

    @property
    def blocks(self) -> Blocks:
        """Options of the computation of kernels."""
        return _read(Blocks, self.experiment["blocks"])

    @property
    def seed(self) -> int:
        """The root seed."""
        seed = self.experiment["seed"]
        if not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise ConfigError("seed of the set", got=str(seed)[:80], expected="a whole number from 0")
        return seed

    @property
    def reference(self) -> Reference | None:
        """The published result that the experiment reproduces."""
        given = self.experiment.get("reference")
        return None if given is None else _read(Reference, given)


def distilled_set(
    origin: Origin,
    transform: Transform,
    state: State,
    *,
    train_digest: str,
    validation_accuracy: float | None,
    test_accuracy: float | None,
    class_names: Sequence[str] = (),
) -> DistilledSet:
    """Make the set of a state: preprocessing inverted, metadata filled in.

    The metadata has no time, path or host in it, so that equal arrays give equal files.

    Args:
        origin: what was run.
        transform: its fitted preprocessing.
        state: the images and labels.
        train_digest: `Split.digest` of the train split, by which evaluation knows its data set again.
        validation_accuracy: KRR accuracy, a fraction; None where the state was saved between checkpoints.
        test_accuracy: accuracy on test images, a fraction; None while the run goes on.
        class_names: the names of the data set's classes; none where they are not known.
    """
    metadata = {
        "format": FORMAT,
        "experiment": origin.experiment,
        "method": {
            "label": origin.label,
            "labels_are": origin.labels_are,
            "judge": config.to_dict(origin.judge),
        },
        "train_sha256": train_digest,
        "preprocess": transform.describe(),
        "pixels": "images: 1.0 is the value 255; preprocessing inverted with image_statistics (mean, scale)",
        "step": int(state.step),
        "validation_accuracy": validation_accuracy,
        "test_accuracy": test_accuracy,
        "versions": machine.versions(),
    }
    steps = state.support.deployment_steps
    if steps is not None:
        metadata["deployment_steps"] = steps
    if class_names:
        metadata["class_names"] = list(class_names)
    rates = state.support.learning_rates
    if rates is not None:
        metadata["learning_rates"] = [float(rate) for rate in rates]
    for name in ("indices", "weights"):
        if (of_images := getattr(state, name)) is not None:
            metadata[name] = of_images.tolist()
    preprocessed, labels = np.asarray(state.inputs), np.asarray(state.labels)
    images = transform.invert(preprocessed, state.statistics)
    return DistilledSet(
        np.asarray(images, np.float32), preprocessed, labels, state.class_index, state.statistics, metadata
    )


def save(path: Path, distilled: DistilledSet) -> None:
    """Write the set, atomically.

    Raises:
        OutputError: if the file cannot be written.
    """
    arrays = distilled._replace(metadata=json.dumps(distilled.metadata, sort_keys=True))._asdict()
    atomic_write(path, lambda file: np.savez(file, **arrays))


def load(path: Path | str) -> DistilledSet:
    """Read a distilled set. Whatever the file holds, it is read as data: nothing that it names is loaded or run.

    Args:
        path: a file, or the name of a set that comes with kip, which `kip sets` lists.

    Raises:
        DataError: if the file is missing, damaged, lacks an array or metadata, was written by a later version, or holds
            no image, values that are not finite, more than `kip.storage.bounds.MOST_CLASSES`, or arrays that do not fit
            each other, which is found before an array is read.
    """
    remedy = "`kip distill` writes RUN/distilled.npz, and `kip export RUN` writes it again from the run's checkpoints."
    path = resolved(path)
    if not path.exists():
        meant = did_you_mean(path.name.removesuffix(".npz"), cards()) if path.parent == Path() else ""
        remedy = f"{meant}{remedy} `kip sets` lists those that come with kip."
        raise DataError(f"no distilled set at {path}", remedy=remedy)
    _check_headers(path, array_headers(path, DistilledSet._fields, remedy=remedy), remedy)
    arrays = read_arrays(path, DistilledSet._fields, remedy=remedy)
    metadata = _metadata(path, arrays.pop("metadata"), remedy)
    loaded = DistilledSet(**arrays, metadata=metadata)
    _check_values(path, loaded, remedy)
    return loaded


def _metadata(path: Path, text: np.ndarray, remedy: str) -> dict[str, Any]:
    """Return the metadata, escaped, after what every reader takes for granted was checked."""
    try:
        metadata = json.loads(str(text))
    except (ValueError, RecursionError) as error:
        raise DataError(f"metadata of {path} cannot be read", got=error, remedy=remedy) from None
    metadata = _escaped(metadata)
    if not isinstance(metadata, dict):
        raise DataError(f"metadata of {path} cannot be read", got=type(metadata).__name__, expected="a JSON object")
    if metadata.get("format") != FORMAT:
        raise DataError(
            f"format of {path}", got=metadata.get("format"), expected=str(FORMAT), remedy="Use the kip that wrote it."
        )
    kinds: dict[str, Any] = {"experiment": dict, "train_sha256": str, "preprocess": dict, "step": int}
    if lacking := kinds.keys() - metadata.keys():
        raise DataError(f"metadata of {path}", got=f"no {', '.join(sorted(lacking))}", remedy=remedy)
    kinds |= {"validation_accuracy": float | int | None, "test_accuracy": float | int | None}
    kinds |= {"deployment_steps": int | None, "learning_rates": list | None, "method": dict | None}
    kinds |= {"indices": list | None, "weights": list | None, "class_names": list | None, "versions": dict | None}
    for name, kind in kinds.items():
        value = metadata.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise DataError(f"metadata of {path}: {name}", got=repr(value)[:80], remedy=remedy)
    names = metadata.get("class_names")
    if names is not None and not all(isinstance(name, str) for name in names):
        raise DataError(f"metadata of {path}: class_names", got=repr(names)[:80], expected="strings", remedy=remedy)
    rates = metadata.get("learning_rates")
    if rates is not None and not (rates and all(is_number(rate) and math.isfinite(rate) for rate in rates)):
        raise DataError(
            f"metadata of {path}: learning_rates", got=repr(rates)[:80], expected="finite numbers", remedy=remedy
        )
    return metadata


def _escaped(value: Any) -> Any:
    """Return what JSON says with all of its texts escaped: they reach terminals, pictures and names of files."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_escaped(entry) for entry in value]
    return {printable(name): _escaped(entry) for name, entry in value.items()} if isinstance(value, dict) else value


def _check_headers(path: Path, headers: dict[str, Header], remedy: str) -> None:
    """Refuse arrays that are not what the table above says, by what their headers say of them."""
    shape = headers["images"].shape
    if len(shape) != 4 or shape[3] not in (1, 3) or 0 in shape:
        raise DataError(
            f"{path}: images", got=f"shape {shape}", expected="(n, H, W, C), n at least 1 and C 1 or 3", remedy=remedy
        )
    count, labels = shape[0], headers["labels"]
    columns = labels.shape[1:2] if 0 not in labels.shape else ("c",)
    expected = {
        "images": (shape, "f"),
        "images_preprocessed": (shape, "f"),
        "labels": ((count, *columns), "f"),
        "class_index": ((count,), "iu"),
        "image_statistics": ((count, 2), "f"),
    }
    for name, (shape_wanted, kinds) in expected.items():
        header = headers[name]
        if header.shape != shape_wanted or header.dtype.kind not in kinds:
            kind = "floats" if kinds == "f" else "integers"
            raise DataError(
                f"{path}: {name} do not fit {count} images {shape[1:]}",
                got=f"{header.dtype} {header.shape}",
                expected=f"{kind} {shape_wanted}",
                remedy=remedy,
            )
    if labels.shape[1] > bounds.MOST_CLASSES:
        raise DataError(f"{path}: labels", got=f"{labels.shape[1]} entries", expected=f"at most {bounds.MOST_CLASSES}")
    text = headers["metadata"]
    if text.shape or text.dtype.kind != "U" or text.nbytes > METADATA_BYTES:
        raise DataError(
            f"metadata of {path}",
            got=f"{text.dtype} {text.shape}",
            expected=f"one text of at most {METADATA_BYTES >> 20} MiB",
            remedy=remedy,
        )


def _check_values(path: Path, loaded: DistilledSet, remedy: str) -> None:
    """Refuse values that no image, label or class has, and metadata that name no method, data or judge."""
    for name in DistilledSet._fields[:-1]:
        if not np.isfinite(getattr(loaded, name)).all():
            raise DataError(f"{path}: {name}", got="values that are not finite", remedy=remedy)
    least, most = int(loaded.class_index.min()), int(loaded.class_index.max())
    if least < 0 or most >= bounds.MOST_CLASSES:
        raise DataError(
            f"{path}: class_index",
            got=least if least < 0 else most,
            expected=f"classes from 0 to {bounds.MOST_CLASSES - 1}",
            remedy=remedy,
        )
    try:
        origin = loaded.origin
        _ = origin.method, origin.data, origin.preprocess, origin.blocks, origin.seed, origin.reference
    except (KipError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise DataError(f"metadata of {path}", got=str(error)[:400].rstrip("."), remedy=remedy) from None


def _read(kind: Any, value: Any) -> Any:
    return config.from_json(kind, json.dumps(value), source="metadata of the set")
