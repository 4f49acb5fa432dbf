"""Transfer: train finite networks on a distilled set by the paper's scheme, and natural images by the same.

    eta = c eta_critical,   c in factors;    loss + L2 / 2 |parameters|^2,   L2 in strengths

1. Search: every (c, L2) is trained and judged by its best validation accuracy over training (early stopping).
2. Final: the best pair trains `seeds` fresh networks, each stopped early by validation; only then are test images read.

The error bar is the deviation over those networks (the paper's is over the 20 best measurements of its search). The
baseline's networks have each their own draw of natural images, so that its error bar holds the luck of the draw too.

Reference: Nguyen et al. 2021, "Dataset Distillation with Infinitely Wide Convolutional Networks", sections 3.2 and A.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

from kip import data, rng
from kip.config import value
from kip.data import Dataset
from kip.errors import ConfigError
from kip.evaluate.empirical_ntk import POINTS, critical_learning_rate
from kip.evaluate.prepared import check_classes, natural, prepared
from kip.judges.judge import deviation
from kip.networks import Model, Network
from kip.preprocess import Apply
from kip.progress import inner_bar, inner_stage
from kip.sets.distilled import DistilledSet
from kip.storage.images import Images
from kip.training.devices import over_devices
from kip.training.ensembles import train_all
from kip.training.predict import accuracy
from kip.training.recipe import Optimizer, Recipe
from kip.training.supervised import train

Baseline = Literal["none", "natural", "full"]

_Labelled = tuple[Images, np.ndarray]
"""Images, preprocessed, and their labels."""


@value
class Transfer:
    """The scheme; defaults are the paper's."""

    network: Network = Network("ConvNet")
    """The network that is trained, such as `ConvNet` or `ConvNet-D3 width=32 norm=none`."""
    loss: Literal["mse", "xent"] = "mse"
    """The loss: squared error on the set's labels, or cross-entropy with their argmax."""
    factors: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (0.5, 1.0, 2.0, 4.0)
    """The learning rates that are tried, in units of the critical one."""
    l2: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)] = (0.0, 1e-7, 1e-5, 1e-3, 1e-1)
    """The strengths of the L2 penalty that are tried."""
    steps: Annotated[int, Field(ge=1)] = 5000
    """The number of updates of a training. The paper takes 25 000 for CIFAR-100 with `mse`, and 10 000 for SVHN."""
    batch: Annotated[int, Field(ge=1)] = 100
    """The number of images of an update. Sets of at most this size are taken whole."""
    evaluations: Annotated[int, Field(ge=1)] = 20
    """Measurements of the validation accuracy in a training, at even distances."""
    search_seeds: Annotated[int, Field(ge=1)] = 1
    """Networks that are trained at each point of the grid; their mean judges it."""
    seeds: Annotated[int, Field(ge=1)] = 5
    """Networks that are trained at the best point of the grid and tested."""
    validation: Annotated[int, Field(ge=1)] | None = None
    """Validation images that are used, the first of the split. None takes all."""
    vectorise: Annotated[int, Field(ge=1)] | None = None
    """Networks that are trained at once. None takes as many as an accelerator's memory holds, and one on a CPU,
    where grouped convolutions cost several times as much."""
    seed: Annotated[int, Field(ge=0)] = 0
    """The seed of initial parameters, batches, and the natural images of the baseline."""

    @property
    def recipe(self) -> Recipe:
        """The settings of one training; the learning rate and the L2 penalty are those of the search."""
        optimizer = Optimizer("sgd", momentum=0.9, schedule="cosine")
        return Recipe(self.loss, optimizer=optimizer, steps=self.steps, batch=self.batch, evaluations=self.evaluations)


class Choice(NamedTuple):
    """The point of the grid that the search chose, on validation alone."""

    factor: float
    l2: float
    learning_rate: float
    critical_learning_rate: float
    grid: list[dict[str, float]]
    """The `factor`, `l2` and mean `validation_accuracy` of each point."""


class TransferResult(NamedTuple):
    """Accuracies of the networks that the chosen point trained, as fractions."""

    trained_on: str
    """The images that the networks were trained on: `distilled`, `natural` or `full`."""
    network: str
    loss: str
    images: int
    test_accuracy: float
    """The mean over networks."""
    test_spread: float
    """The standard deviation over networks (n - 1); 0 for one network."""
    test_accuracies: list[float]
    validation_accuracy: float
    choice: Choice
    stopped: list[int]
    """The number of updates after which each network was best on validation."""
    curve: list[list[float]]
    """The validation accuracy of each network at each evaluation."""
    checkpoint: int
    """The step of the distilled set."""
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON-ready dictionaries."""
        return {**self._asdict(), "choice": self.choice._asdict()}


def search(model: Model, config: Transfer, supports: Sequence[_Labelled], validation: _Labelled) -> Choice:
    """Choose the factor of the learning rate and the L2 strength; test images are no argument.

    Args:
        model: the network.
        config: the grid.
        supports: what to train on, one for each of `config.search_seeds`.
        validation: images and classes (M,).
    """
    points = [(factor, l2) for factor in config.factors for l2 in config.l2]
    critical = _critical(model, config, supports[0][0])
    rates, decays = np.array([[c * critical, l2] for c, l2 in points], np.float32).T
    accuracies = []
    for index, support in enumerate(supports):
        # One key: the points of a grid start from the same parameters. A rate that is too high is a result.
        keys = jnp.stack([rng.key(config.seed, "transfer search", index)] * len(points))
        options = {"at_once": config.vectorise, "may_diverge": True}
        trained = train_all(model, config.recipe, keys, rates, decays, *support, validation, **options)
        accuracies.append(trained.validation_accuracy)
    means = np.mean(accuracies, axis=0)
    factor, l2 = points[int(means.argmax())]
    grid = [{"factor": c, "l2": s, "validation_accuracy": float(m)} for (c, s), m in zip(points, means)]
    return Choice(factor, l2, factor * critical, critical, grid)


def transfer_set(
    distilled: DistilledSet,
    config: Transfer,
    *,
    baseline: Baseline = "none",
    data_dir: Path | None = None,
    progress: Callable[[str], Any] = lambda line: None,
) -> TransferResult:
    """Train networks on a distilled set, or on natural images in its place, and test them.

    Args:
        distilled: the set; it names data set and preprocessing.
        config: the scheme.
        baseline: `natural` trains on class-balanced natural images of the same number with centred one-hot labels,
            another draw for each network; `full` on the whole train split.
        data_dir: where `NAME.npz` is, if not in $KIP_DATA_DIR.
        progress: called with a line after each part.

    Raises:
        DataError: if the data set differs from the one that the set was distilled from.
        ConfigError: if there is no validation image, or the labels are representations.
        ShapeError: if the images are too small for the network.
    """
    started = time.perf_counter()
    check_classes(distilled, "a transfer")
    dataset, apply = prepared(distilled, data_dir)
    images, classes = dataset.validation.images[: config.validation], dataset.validation.labels[: config.validation]
    if len(images) == 0:
        raise ConfigError(
            "validation images for a transfer", got="none", expected="some", remedy="Distil with data.validation > 0."
        )
    model = Model(config.network, dataset.num_classes)
    model.check_images(*dataset.train.images.shape[1:3])
    draws = _supports(distilled, dataset, apply, baseline, config)
    validation = apply(images), classes
    with inner_stage(f"choosing rate and L2 for {baseline if baseline != 'none' else 'the set'}"):
        choice = search(model, config, draws[: config.search_seeds], validation)
    progress(
        f"chosen on validation: factor {choice.factor:g}, L2 {choice.l2:g}, learning rate {choice.learning_rate:.3g}"
    )
    finals = draws[config.search_seeds :]
    rates, decays = np.array([[choice.learning_rate], [choice.l2]], np.float32)
    keys = (rng.key(config.seed, "transfer final", index)[None] for index in range(len(finals)))
    trainings = [
        functools.partial(train, model, config.recipe, key, rates, decays, *support, validation, may_diverge=True)
        for key, support in zip(keys, finals)
    ]
    results = []
    with inner_bar(len(finals), "networks") as bar:
        for trained in over_devices(trainings):
            results.append(trained)
            bar.update()
            progress(
                f"network {len(results)} of {len(finals)}: validation {100 * trained.validation_accuracy[0]:.2f} %"
            )
    test = apply(dataset.test.images), dataset.test.labels
    tested = [float(accuracy(model, trained.variables[0], *test)) for trained in results]
    return TransferResult(
        trained_on="distilled" if baseline == "none" else baseline,
        network=config.network.label,
        loss=config.loss,
        images=len(finals[0][0]),
        test_accuracy=float(np.mean(tested)),
        test_spread=deviation(tested),
        test_accuracies=tested,
        validation_accuracy=float(np.mean([trained.validation_accuracy[0] for trained in results])),
        choice=choice,
        stopped=[int(trained.step[0]) for trained in results],
        curve=[trained.curve[0].tolist() for trained in results],
        checkpoint=int(distilled.metadata["step"]),
        seconds=time.perf_counter() - started,
    )


def _critical(model: Model, config: Transfer, images: Images) -> float:
    """Return eta_critical on min(64, n) training images, at the parameters that the search starts from."""
    key = rng.key(config.seed, "transfer search", 0)
    variables = model.init(jax.random.fold_in(key, 0), images.shape[1:])  # type: ignore[arg-type]
    count = min(POINTS, len(images))
    chosen = rng.generator(config.seed, "transfer points").choice(len(images), count, replace=False)
    divisor = count * (model.num_outputs if config.loss == "mse" else 1)
    return critical_learning_rate(model, variables, images[np.sort(chosen)], divisor=divisor)


def _supports(
    distilled: DistilledSet,
    dataset: Dataset,
    apply: Apply,
    baseline: Baseline,
    config: Transfer,
) -> Sequence[_Labelled]:
    """Return what each network of the search, and then each final one, trains on."""
    count = config.search_seeds + config.seeds
    if baseline == "natural":
        return [natural(dataset, apply, len(distilled.images), config.seed, draw) for draw in range(count)]
    if baseline == "full":
        labels = data.centred_one_hot(dataset.train.labels, dataset.num_classes)
        return [(apply(dataset.train.images), labels)] * count
    return [(distilled.images_preprocessed, distilled.labels)] * count
