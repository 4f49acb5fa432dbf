"""Training records: the logits of networks for every train image after every epoch, kept in files.

Networks learn the train set, and after each epoch their logits for all of its images, as they are, go into a file of
shape (epochs + 1, N, c), row k after k epochs; row 0 is the fresh network. Files are written row by row and read column
by column, so that memory holds one epoch of all images, or all epochs of some images. One recording serves most scores
of `kip.methods.selection`.

    CACHE/artefacts/record-0-5f0c....npz           the training, saved after every epoch
    CACHE/artefacts/record-0-5f0c....logits.npy    its rows; a row is on the disk before the epoch is saved

A kill loses one epoch at the most: rows since the last save are written again, with the same bits.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from pydantic import Field

from kip.config import to_dict, value
from kip.data import one_hot
from kip.errors import ConfigError, DataError, OutputError
from kip.networks.model import Model, Network
from kip.rng import key
from kip.storage.artefacts import Artefact, Store, digest, share_out
from kip.storage.images import Chosen, Images, Lazy
from kip.training.augment import Augmentation, for_classes
from kip.training.batches import Batches
from kip.training.loop import Hooks
from kip.training.losses import per_example
from kip.training.predict import device_features, logits, rows_at_once
from kip.training.protocols import PROTOCOLS
from kip.training.recipe import Optimizer, Recipe, Schedule
from kip.training.supervised import train

COLUMN_BYTES = 2**27
"""The size of the logits that are read at a time, in bytes."""
GRADIENT_NUMBERS = 2**24
"""The numbers of the per-example gradients that are in memory at a time."""
Purpose = Literal["record", "teacher"]
NETWORK_OF: dict[Purpose, str] = {"record": "recorded network", "teacher": "recorded teacher"}
"""The purposes under which networks are drawn."""
REMEDY = "Remove the file, or set KIP_CACHE_DIR to another folder, and run the same command again."


@value
class Recording:
    """The networks that learn the train set. The defaults are those of DeepCore but for epochs.

    `compute_aligned` has the recipe of a protocol's hard labels in their place.
    """

    network: Network | None = None
    """The network. None means the one that judges the set."""
    epochs: Annotated[int, Field(ge=1)] = 30
    """The number of epochs of each network."""
    seeds: Annotated[int, Field(ge=1)] = 1
    """The number of networks. EL2N and GraNd are means over 10 in their paper."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    """The learning rate of SGD at its highest."""
    schedule: Schedule = "cosine"
    """The schedule of the learning rate over all epochs; see `kip.training.recipe.Optimizer`."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """The momentum of SGD."""
    decay: Annotated[float, Field(ge=0)] = 5e-4
    """The weight decay of SGD."""
    batch: Annotated[int, Field(ge=1)] = 128
    """The number of images of an update."""
    augment: Augmentation | None = None
    """The augmentation of training images, without flips where a mirror image has another class. None means
    `flip_shift`."""

    def recipe(self, count: int, *, mirror_keeps_class: bool) -> Recipe:
        """Return the training on `count` images."""
        batches = Batches(count, self.batch, "whole_epochs")
        optimizer = Optimizer(
            "sgd", self.learning_rate, momentum=self.momentum, weight_decay=self.decay, schedule=self.schedule
        )
        return Recipe(
            "xent",
            optimizer=optimizer,
            steps=self.epochs * batches.of_epoch,
            batch=self.batch,
            drawn="whole_epochs",
            augment=for_classes(self.augment or "flip_shift", mirror_keeps_class),
            evaluations=1,
            keep="last",
        )


def compute_aligned(epochs: int, *, network: Network | None = None, seeds: int = 1) -> Recording:
    """Return a recording whose networks learn the train set as the protocol HL trains networks on a small set.

    That is SGD at 0.01 with momentum 0.9 and decay 5e-4, a tenth of the rate from half on, batches of 256 and DSA. The
    whole schedule has so many epochs, and so the recording is not the beginning of a longer one.

    Args:
        epochs: K.
        network: see `Recording`.
        seeds: see `Recording`.
    """
    hard = PROTOCOLS["HL"]
    return Recording(
        network,
        epochs,
        seeds,
        hard.rate_for(None),
        "halfway",
        decay=hard.decay,
        batch=hard.batch,
        augment=hard.augment or "dsa",
    )


class Records:
    """The records of networks that learned the train set.

    Args:
        model: the network.
        variables: of each network after its last epoch.
        logits: for each network (epochs + 1, N, c), mapped from its file.
        gradient_norms: for each network (epochs asked for, N), mapped from its file; none where none was asked for.
        inputs: the train images, (N, H, W, C), preprocessed.
        classes: their classes, (N,).
    """

    def __init__(
        self,
        model: Model,
        variables: list[Any],
        logits: list[np.ndarray],
        gradient_norms: list[np.ndarray],
        inputs: Images,
        classes: np.ndarray,
    ):
        self.model, self.variables, self.classes = model, variables, classes
        self._logits, self._norms, self._inputs = logits, gradient_norms, inputs
        self._features: np.ndarray | None = None

    @property
    def epochs(self) -> int:
        """The number of epochs of each network; there is one row more."""
        return len(self._logits[0]) - 1

    def columns(self, images: slice | np.ndarray) -> np.ndarray:
        """Return the logits of some images, (seeds, epochs + 1, m, c) float32."""
        return np.stack([rows[:, images] for rows in self._logits])

    def last(self, images: slice | np.ndarray = slice(None)) -> np.ndarray:
        """Return the logits of the first network after its last epoch, (m, c) float32."""
        return np.array(self._logits[0][-1, images])

    def final(self, images: slice | np.ndarray = slice(None)) -> np.ndarray:
        """Return the logits of all networks after their last epoch, (seeds, m, c) float32."""
        return np.stack([rows[-1, images] for rows in self._logits])

    def scores(self, score: Callable[..., np.ndarray], teacher: Records | None = None) -> np.ndarray:
        """Return a score of every image, (N,) float64, some columns at a time.

        Args:
            score: of logits (seeds, epochs + 1, m, c) and classes (m,), a number for each of the m images; with a
                teacher of its final logits (seeds, m, c) too.
            teacher: records of the same images by other networks.
        """
        count = len(self.classes)
        size = max(1, COLUMN_BYTES // (4 * len(self._logits) * int(np.prod(self._logits[0].shape)) // count))
        parts = [slice(first, first + size) for first in range(0, count, size)]
        beside = (lambda part: ()) if teacher is None else (lambda part: (teacher.final(part),))
        return np.concatenate([score(self.columns(part), self.classes[part], *beside(part)) for part in parts])

    def gradient_norms(self) -> np.ndarray:
        """Return the norms of per-example gradients after the epochs that were asked for, (seeds, asked for, N)."""
        return np.stack([np.array(norms) for norms in self._norms])

    def features(self, images: slice | np.ndarray = slice(None)) -> np.ndarray:
        """Return the last features of the first network after its last epoch, (m, d) float64.

        Those of all images are computed at the first call, and kept as float32. Of a set that is not in memory, only
        those that are asked for are computed.
        """
        if isinstance(self._inputs, Lazy):
            asked_for = np.arange(len(self._inputs))[images]
            features = device_features(self.model, self.variables[0], Chosen(self._inputs, asked_for))
            return np.asarray(features, np.float32).astype(np.float64)
        if self._features is None:
            self._features = np.asarray(device_features(self.model, self.variables[0], self._inputs), np.float32)
        return self._features[images].astype(np.float64)


def record(
    recording: Recording,
    network: Network,
    inputs: Images,
    classes: np.ndarray,
    num_classes: int,
    *,
    seed: int,
    mirror_keeps_class: bool,
    store: Store,
    gradients_after: tuple[int, ...] = (),
    purpose: Purpose = "record",
) -> Records:
    """Return a recording of the train set; the parts that are not there yet are made first.

    Args:
        recording: the training of the networks.
        network: the network where `recording` names none.
        inputs: train images, (N, H, W, C), preprocessed.
        classes: their classes, (N,) integers.
        num_classes: c.
        seed: the root seed.
        mirror_keeps_class: whether networks may see images flipped.
        store: keeps it, shared between runs.
        gradients_after: epochs after which the norms of per-example gradients are recorded too.
        purpose: the purpose of the networks; those of another purpose are other draws.

    Raises:
        ConfigError: if an epoch of `gradients_after` is not one of the recording.
        ShapeError: if the images are too small for the network.
        NonFiniteError: if a network diverges.
        OutputError, DataError: if the rows cannot be written or read.
    """
    if any(not 0 <= epoch <= recording.epochs for epoch in gradients_after):
        raise ConfigError(
            "epoch of the gradients", got=max(gradients_after), expected=f"at most recording.epochs, {recording.epochs}"
        )
    model = Model(recording.network or network, num_classes)
    model.check_images(*inputs.shape[1:3])
    identity = {
        "recording": {**to_dict(recording), "seeds": None},
        "network": to_dict(model.network),
        "seed": seed,
        "set": digest(inputs, classes),
        "outputs": num_classes,
        "mirror": mirror_keeps_class,
        "gradients": list(gradients_after),
        "purpose": purpose,
    }
    recipe = recording.recipe(len(inputs), mirror_keeps_class=mirror_keeps_class)
    targets = one_hot(classes, num_classes, inputs)
    artefacts = [
        store.artefact(f"{purpose}-{index}", {**identity, "network index": index}, shared=True)
        for index in range(recording.seeds)
    ]
    made: dict[int, tuple[Any, np.ndarray, np.ndarray | None]] = {}

    def of_network(index: int, artefact: Artefact) -> tuple[Any, np.ndarray, np.ndarray | None]:
        rows = Rows(artefact.path.with_suffix(".logits.npy"), (recording.epochs + 1, len(inputs), num_classes))
        norms = None
        if gradients_after:
            norms = Rows(artefact.path.with_suffix(".norms.npy"), (len(gradients_after), len(inputs)))
        if rows.made or (norms is not None and norms.made):  # a training that went on would leave earlier rows empty
            artefact.path.unlink(missing_ok=True)

        def on_epoch(epoch: int, learned: Any) -> None:
            rows.write(epoch, logits(model, learned, inputs))
            if norms is not None and epoch in gradients_after:
                norms.write(gradients_after.index(epoch), gradient_norms(model, learned, inputs, targets))

        trained = train(
            model,
            recipe,
            key(seed, NETWORK_OF[purpose], index)[None],
            np.array([recording.learning_rate]),
            np.array([recording.decay]),
            inputs,
            targets,
            None,
            hooks=Hooks(on_epoch=on_epoch),
            artefact=artefact,
            save_every=Batches(len(inputs), recording.batch, "whole_epochs").of_epoch,
            show_progress=store.show_progress,
            what=f"{NETWORK_OF[purpose]} {index}",
        )
        return trained.variables[0], rows.read(), None if norms is None else norms.read()

    for index in share_out(artefacts):
        made[index] = of_network(index, artefacts[index])
    variables, of_logits, of_norms = zip(*(made[index] for index in range(recording.seeds)))
    known_norms = [norms for norms in of_norms if norms is not None]
    return Records(model, list(variables), list(of_logits), known_norms, inputs, classes)


class Rows:
    """A file of float32 rows, written one at a time; NumPy's `.npy` format.

    Args:
        path: the file; one that is missing, damaged or of another shape is made, filled with zeros.
        shape: (rows, ...).

    Raises:
        OutputError: if it cannot be made.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]):
        self._path, self._shape = path, shape
        self.made = False
        """True if the file was made now, and so is empty."""
        try:
            self._begin = self._map().offset
        except (OSError, ValueError):
            self._make()
            self.made = True
            self._begin = self._map().offset

    def write(self, row: int, values: np.ndarray) -> None:
        """Write a row, and return when it is on the disk.

        Raises:
            OutputError: if it cannot be written.
        """
        content = np.ascontiguousarray(values, "<f4")
        if content.shape != self._shape[1:]:
            raise ValueError(f"a row of shape {content.shape} for a file of shape {self._shape}")
        with _reporting_errors(self._path), self._path.open("r+b") as file:
            file.seek(self._begin + row * content.nbytes)
            file.write(content.tobytes())
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> np.ndarray:
        """Return all rows, mapped from the file, read-only.

        Raises:
            DataError: if the file cannot be read, or a row was never written.
        """
        try:
            rows = self._map()
        except (OSError, ValueError) as error:
            raise DataError(f"{self._path} cannot be read", got=error, remedy=REMEDY) from None
        if not all(row.any() for row in rows):
            raise DataError(f"{self._path} lacks a row", remedy=REMEDY)
        return rows

    def _map(self) -> np.memmap:
        rows = np.load(self._path, mmap_mode="r", allow_pickle=False)
        if rows.shape != self._shape or rows.dtype != np.dtype("<f4"):
            raise ValueError("another shape or dtype")
        return rows

    def _make(self) -> None:
        aside = self._path.parent / f".{self._path.name}.{uuid.uuid4().hex}.tmp"
        with _reporting_errors(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            header = {"descr": "<f4", "fortran_order": False, "shape": self._shape}
            with aside.open("wb") as file:
                np.lib.format.write_array_header_1_0(file, header)
                file.truncate(file.tell() + 4 * int(np.prod(self._shape)))
            os.replace(aside, self._path)


@contextlib.contextmanager
def _reporting_errors(path: Path) -> Any:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot write {path}",
            got=error.strerror or repr(error),
            remedy="Make room, or set KIP_CACHE_DIR to another folder, and run the same command again.",
        ) from error


def gradient_norms(model: Model, variables: Any, images: Images, labels: np.ndarray | Lazy) -> np.ndarray:
    """Return |grad_theta CE(theta; x, y)|_2 over all parameters, for each image, (N,) float32.

    Args:
        model: the network.
        variables: its variables; batch normalisation takes its running statistics.
        images: (N, H, W, C), preprocessed.
        labels: one-hot, (N, c).
    """
    parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    size = int(np.clip(GRADIENT_NUMBERS // parameters, 1, rows_at_once(model, images)))
    parts = [slice(first, first + size) for first in range(0, len(images), size)]
    return np.concatenate([np.asarray(_norms(variables, images[part], labels[part], model=model)) for part in parts])


@partial(jax.jit, static_argnames=("model",))
def _norms(variables: Any, images: Array, labels: Array, *, model: Model) -> Array:
    def loss(params: Any, image: Array, label: Array) -> Array:
        outputs = model.apply({**variables, "params": params}, image[None])
        return per_example("xent", outputs.logits, label[None])[0]

    gradients = jax.vmap(jax.grad(loss), (None, 0, 0))(variables["params"], images, labels)
    squares = [jnp.sum(jnp.square(leaf), axis=tuple(range(1, leaf.ndim))) for leaf in jax.tree.leaves(gradients)]
    return jnp.sqrt(sum(squares))  # type: ignore[arg-type]
