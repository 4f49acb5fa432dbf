"""Is a set worth pre-training on? Protocols on a second data set: sets x networks x protocols x starts.

For each seed a fresh network learns the labels of a set by squared error: representations for KRR-ST, class labels for
other methods. What then becomes of it on the second data set:

| name | what is done | paper |
|---|---|---|
| probe | ridge regression on frozen features of labelled images | none |
| fine-tune | SGD on labelled images, behind a fresh last layer | 001, Table 1 |
| data-free-kd | it learns a teacher's answers on the set; only the teacher saw the second data set | 001, Table 4 |

Fine-tuning: 5000 updates in batches of 256, learning rate 0.01 falling as a cosine, momentum 0.9, weight decay 5e-4.

Data-free KD: cross-entropy with the teacher's probabilities, AdamW at 1e-4, 1000 epochs in batches of 512. Batch
normalisation takes the statistics of the batch at hand, in teacher and student, and also at test, since the two data
sets' differ. Started from nothing, the student sees standard normal noise, drawn anew for each update ("Gaussian").

Reference: Lee et al. 2024 (KRR-ST, paper 001), section 4 and Tables 1 and 4.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np
from pydantic import Field

from kip import data
from kip.config import value
from kip.errors import ConfigError, ShapeError
from kip.evaluate.prepared import Support, natural, prepared
from kip.judges import Probe, probe
from kip.judges.judge import deviation
from kip.methods.features.krr_st import KRRST
from kip.networks import Model, Network
from kip.networks.model import READOUT, Variables, fresh
from kip.networks.own import is_own
from kip.preprocess import Apply
from kip.progress import inner_stage
from kip.rng import generator, key
from kip.runs import folder
from kip.sets.distilled import DistilledSet
from kip.storage.artefacts import Store
from kip.storage.images import Images
from kip.training import self_supervised
from kip.training.batches import Batches
from kip.training.predict import accuracy
from kip.training.recipe import Optimizer, Recipe
from kip.training.supervised import Labeller, train, train_teacher

Start = Literal["distilled", "random", "random-classes", "none"]
"""`random`: as many natural images of the set's source, drawn anew for each seed, with the labels that the set's have:
the self-supervised teacher's representations of them, or their classes. `random-classes`: natural images with their
classes, whatever the set has. `none`: no pre-training."""
How = Literal["probe", "fine-tune", "data-free-kd"]

FINE_TUNING = Recipe(
    "xent",
    optimizer=Optimizer("sgd", 0.01, momentum=0.9, weight_decay=5e-4, schedule="cosine"),
    steps=5000,
    batch=256,
    evaluations=1,
    keep="last",
)
DATA_FREE = Recipe("kl", optimizer=Optimizer("adamw", 1e-4, weight_decay=1e-2), batch=512, evaluations=1, keep="last")
"""Table 4 gives no weight decay; this is PyTorch's for AdamW."""
EPOCHS = 1000
"""Passes of data-free KD over the set."""


@value
class Pretraining:
    """The sets that are compared, and the way."""

    data: data.Data
    """The second data set. Its images have the shape of those that the set was distilled from."""
    how: Annotated[tuple[How, ...], Field(min_length=1)] = ("probe",)
    """The use of a pre-trained network on the second data set."""
    starts: Annotated[tuple[Start, ...], Field(min_length=1)] = ("distilled", "random", "none")
    """The images that networks are pre-trained on: the set; as many random images of its source, labelled as the set's
    are; such images with their classes; or nothing."""
    networks: tuple[Network, ...] = ()
    """The networks that are pre-trained. None stands for the network of a KRR-ST set, or KRR-ST's default."""
    labelled: Annotated[int, Field(ge=1)] | None = 1000
    """The number of labelled train images of the second data set that probes and fine-tuning learn from,
    class-balanced. None takes all."""
    steps: Annotated[int, Field(ge=1)] | None = None
    """The number of updates of fine-tuning and data-free KD. None takes the paper's: 5000, and 1000 epochs."""
    teacher: Network = Network("ConvNet-D3", norm="batch")
    """The teacher of data-free KD. It is trained on the whole train split of the second data set."""
    teacher_steps: Annotated[int, Field(ge=1)] = 5000
    """The number of updates of the teacher, in batches of 100."""
    seeds: Annotated[int, Field(ge=1)] = 3
    """Networks that are trained for each cell of the table."""


class PretrainingCell(NamedTuple):
    """One cell of the table: mean and standard deviation over seeds, as fractions of the second data set's test."""

    candidate: str
    network: str
    how: How
    start: Start
    mean: float
    deviation: float
    accuracies: list[float]


class _Second(NamedTuple):
    """The second data set, preprocessed as the source is."""

    classes: int
    train: tuple[Images, np.ndarray]
    test: tuple[Images, np.ndarray]
    labels: np.ndarray
    """The labels of the train images, centred one-hot."""
    validation: tuple[Images, np.ndarray]


def pretraining(
    paths: Sequence[Path],
    config: Pretraining,
    *,
    data_dir: Path | None = None,
    progress: Callable[[PretrainingCell], Any] = lambda cell: None,
) -> list[PretrainingCell]:
    """Return the table.

    Args:
        paths: .npz files or runs' folders.
        config: the rest.
        data_dir: where `NAME.npz` is, if not in $KIP_DATA_DIR.
        progress: called with each cell, as soon as it is known.

    Raises:
        ConfigError: if there is no set.
        DataError: if a set cannot be read, or is of other data.
        ShapeError: if the second data set's images have another shape.
    """
    if not paths:
        raise ConfigError("sets", got="none", expected="at least one")
    _refuse_own(config.networks)
    second = data.load(config.data, data_dir)
    cells = []
    teachers: dict[Any, Labeller] = {}
    for path, name in zip(paths, folder.names(paths)):
        for cell in _cells(name, folder.read_sets(path)[0], config, second, teachers, data_dir):
            progress(cell)
            cells.append(cell)
    return cells


def line(cell: PretrainingCell) -> str:
    """Return a cell as a line of text."""
    accuracies = ", ".join(f"{100 * accuracy:.2f}" for accuracy in cell.accuracies)
    return (
        f"{cell.candidate:20} {cell.network:24} {cell.how:12} {cell.start:9} "
        f"{100 * cell.mean:.2f} +- {100 * cell.deviation:.2f} %  ({accuracies})"
    )


def _cells(
    name: str,
    distilled: DistilledSet,
    config: Pretraining,
    dataset: data.Dataset,
    teachers: dict[Any, Labeller],
    data_dir: Path | None,
) -> Iterator[PretrainingCell]:
    """Yield a set's cells; `teachers`, by the preprocessing of what they saw, are kept for the sets that come after."""
    source, apply = prepared(distilled, data_dir)
    second = _second(dataset, apply, distilled)
    origin = distilled.origin
    settings = origin.judge if isinstance(origin.judge, Probe) else KRRST().judge
    represent, teacher = None, None
    if origin.labels_are == "representations" and "random" in config.starts:
        method = distilled.experiment.method
        if not isinstance(method, KRRST):
            raise ConfigError("random images with a teacher's representations", got=origin.method, expected="krr_st")
        represent = _representation(method.teacher, source, apply, origin.seed)
    _refuse_own(config.networks or (settings.network,))
    if "data-free-kd" in config.how:
        preprocessing = origin.data, origin.preprocess
        if preprocessing not in teachers:
            trained, _ = train_teacher(
                config.teacher, second.train[0], second.labels, _first(second.validation), steps=config.teacher_steps
            )
            teachers[preprocessing] = trained._replace(batch_statistics=True)
        teacher = teachers[preprocessing]
    for network in config.networks or (settings.network,):
        changed = dataclasses.replace(settings, network=network)
        for start in config.starts:
            accuracies: dict[How, list[float]] = {how: [] for how in config.how}
            for seed in range(config.seeds):
                with inner_stage(f"{name}, {network.label}, {start}, seed {seed}", names=False):
                    support = _support(start, seed, distilled, source, apply, represent)
                    pretrained = _pretrained(changed, support, second, start, seed)
                    for how, of_seeds in accuracies.items():
                        accuracy_of = functools.partial(_judged, how, config, network, pretrained, support[0], start)
                        of_seeds.append(accuracy_of(second, teacher, seed))
            for how, of_seeds in accuracies.items():
                yield PretrainingCell(
                    name, network.label, how, start, float(np.mean(of_seeds)), deviation(of_seeds), of_seeds
                )


def _second(dataset: data.Dataset, apply: Apply, distilled: DistilledSet) -> _Second:
    if dataset.train.images.shape[1:] != distilled.images.shape[1:]:
        raise ShapeError(
            "images of the second data set",
            got=dataset.train.images.shape[1:],
            expected=f"{distilled.images.shape[1:]}, the set's",
            remedy="Choose another data set, or give Data the size and channels of the source.",
        )
    train, test, validation = (
        (apply(split.images), split.labels) for split in (dataset.train, dataset.test, dataset.validation)
    )
    labels = data.centred_one_hot(dataset.train.labels, dataset.num_classes)
    return _Second(dataset.num_classes, train, test, labels, validation)


def _representation(
    config: self_supervised.Teacher, source: data.Dataset, apply: Apply, seed: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Return what a set's self-supervised teacher makes of images; it is found in the cache, or trained, when asked."""
    trained = functools.cache(
        lambda: self_supervised.train(config, apply(source.train.images), seed=seed, store=Store())
    )
    return lambda images: self_supervised.represent(*trained(), images)


def _support(
    start: Start,
    seed: int,
    distilled: DistilledSet,
    source: data.Dataset,
    apply: Apply,
    represent: Callable[[np.ndarray], np.ndarray] | None,
) -> Support:
    if start in ("distilled", "none"):
        return distilled.images_preprocessed, distilled.labels
    if represent is None or start == "random-classes":
        return natural(source, apply, len(distilled.images), seed, 0)
    pixels = source.train.images
    chosen = generator(seed, "random images").choice(len(pixels), len(distilled.images), replace=False)
    images = apply(pixels[chosen])
    return images, represent(images)


def _pretrained(config: Probe, support: Support, second: _Second, start: Start, seed: int) -> Variables:
    if start == "none":
        model = Model(config.network, support[1].shape[1])
        # The values that the other starts begin their pre-training with.
        drawn = jax.random.fold_in(key(seed, "pretraining", 0), 0)
        return fresh(model, drawn, second.train[0].shape[1:])
    return config.pretrain(*support, keys=key(seed, "pretraining", 0)[None])[0]


def _refuse_own(networks: Sequence[Network]) -> None:
    for network in networks:
        if is_own(network.name):
            raise ConfigError(
                "networks of a pre-training",
                got=network.label,
                expected="networks of the table",
                remedy="Their last layer is exchanged, which in a network of your own is not known.",
            )


def _judged(
    how: How,
    config: Pretraining,
    network: Network,
    pretrained: Variables,
    images: np.ndarray,
    start: Start,
    second: _Second,
    teacher: Labeller | None,
    seed: int,
) -> float:
    """Return the test accuracy that a pre-trained network reaches by one protocol."""
    labelled = config.labelled or len(second.train[0])
    if how == "probe":
        outputs = pretrained["params"][READOUT]["bias"].shape[0]
        return probe.linear_probe(
            Model(network, outputs), pretrained, *second.train, *second.test, count=labelled, seed=seed
        )
    model = Model(network, second.classes)
    labels, recipe = np.zeros((len(images), second.classes), np.float32), DATA_FREE  # the teacher gives the labels
    if how == "fine-tune":
        chosen = data.class_balanced(
            second.train[1], labelled, num_classes=second.classes, seed=seed, purpose="linear probe"
        )
        images, labels, recipe = second.train[0][chosen], second.labels[chosen], FINE_TUNING
        steps = config.steps or recipe.steps
    else:
        steps = config.steps or data_free_updates(len(images))

    def begin(fresh: Variables) -> Variables:
        params = {**pretrained["params"], READOUT: fresh["params"][READOUT]}
        return {**pretrained, "params": params}

    free = how == "data-free-kd"
    trained = train(
        model,
        dataclasses.replace(recipe, steps=steps, augment="noise" if free and start == "none" else "none"),
        key(seed, how, 0)[None],
        np.array([recipe.optimizer.learning_rate]),
        np.array([recipe.optimizer.weight_decay]),
        images,
        labels,
        _first(second.validation),
        teacher=teacher if free else None,
        begin=begin,
        may_diverge=True,
    )
    return float(accuracy(model, trained.variables[0], *second.test, batch_statistics=free))


def data_free_updates(count: int) -> int:
    """Return the number of updates of data-free KD in `EPOCHS` passes over `count` images, the last batches too.

    >>> data_free_updates(1000)
    2000
    """
    return EPOCHS * Batches(count, DATA_FREE.batch).of_epoch


def _first(validation: tuple[Images, np.ndarray]) -> Support:
    """Return one image: nothing is chosen here."""
    return validation[0][:1], validation[1][:1]
