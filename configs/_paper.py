"""The common settings of the KIP paper's tables: their hyperparameters (section A) and their row names.

A row's name lists what is switched on, in the order of the paper's columns:

    ipc10_zca_labels_aug    10 images a class, regularised ZCA, learned labels, augmented targets
    ipc10_plain             10 images a class, none of the three

Choices that the paper leaves to the reader, made alike for all tables:

- 5000 train images are held out as validation split. The paper tunes on 5000 images apart and does not say whether its
  runs, Label Solve on "the whole target set" included, see them.
- SVHN without augmentation and with ZCA takes CIFAR's ZCA strength and learning rate, as section A says; its reason is
  the ZCA strength, so without ZCA the learning rate stays 0.01. Label Solve has no gradient and keeps strength 100.
- The paper says "up to 50K iterations" and that some runs ended early; the limit here is 50 000 for each.

Reference: Nguyen et al. 2021, "Dataset Distillation with Infinitely Wide Convolutional Networks", section A.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from kip.data import Augment, Data
from kip.experiment import Experiment, Reference
from kip.kernels.architecture import Architecture
from kip.methods.kernel.kip import KIP
from kip.methods.kernel.label_solve import LabelSolve
from kip.preprocess import Preprocess

PAPER = "Nguyen et al. 2021"
CONVNET = Architecture("ConvNet")
TITLES = {
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "svhn_cropped": "SVHN",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
}
AUGMENTATION = {
    "mnist": Augment("rotate_shift"),
    "fashion_mnist": Augment("rotate_shift"),
    "svhn_cropped": Augment("autoaugment_svhn"),
    "cifar10": Augment("autoaugment_cifar"),
    "cifar100": Augment("autoaugment_cifar"),
}
OPTIONS = ("zca", "labels", "aug")
"""The settings that a row's name can switch on, in the paper's order."""


def kip_rows(
    table: str, data: str, scores: dict[str, tuple[float, float]], kernel: Architecture = CONVNET
) -> dict[str, Experiment]:
    """Return the KIP rows of a table.

    Args:
        table: its name in the paper, such as `Table A5`.
        data: the tensorflow-datasets name.
        scores: KIP accuracy and its deviation in percent, by row name, as printed.
        kernel: the kernel of all rows.
    """
    return {
        name: kip_row(
            data, ipc, **on, kernels=(kernel,), reference=reference(table, words(data, ipc, **on), *scores[name])
        )
        for name, ipc, on in _parse(scores)
    }


def label_solve_rows(
    table: str, data: str, scores: dict[str, float], kernel: Architecture = CONVNET
) -> dict[str, Experiment]:
    """Return the Label Solve rows of a table; arguments as `kip_rows`, but `scores` has no deviations."""
    return {
        name: label_solve_row(
            data, ipc, zca=on["zca"], kernel=kernel, reference=reference(table, words(data, ipc, **on), scores[name])
        )
        for name, ipc, on in _parse(scores)
    }


def kip_row(
    data: str,
    images_per_class: int,
    *,
    zca: bool = False,
    labels: bool = False,
    aug: bool = False,
    fraction: float = 1.0,
    kernels: tuple[Architecture, ...] = (CONVNET,),
    reference: Reference | None = None,
) -> Experiment:
    """Return one KIP run of the paper.

    Args:
        data: the tensorflow-datasets name.
        images_per_class: support images of each class.
        zca: regularised ZCA, else standard preprocessing.
        labels: learned labels, else centred one-hot.
        aug: augmented targets.
        fraction: the part of each target batch that is augmented.
        kernels: the kernel, or those that each step draws from.
        reference: what the paper reports.
    """
    as_cifar = data.startswith("cifar") or (data == "svhn_cropped" and zca and not aug)
    return Experiment(
        method=KIP(
            images_per_class=images_per_class,
            learn_labels=labels,
            steps=50_000,
            learning_rate=0.04 if as_cifar else 0.01,
            target_batch=5000,
            kernels=kernels,
        ),
        data=Data(data, validation=5000),
        preprocess=_preprocess(zca, 0.1 if as_cifar else 100.0),
        augment=replace(AUGMENTATION[data], fraction=fraction) if aug else Augment("none"),
        checkpoint_every=50,
        reference=reference,
    )


def label_solve_row(
    data: str,
    images_per_class: int,
    *,
    zca: bool = False,
    kernel: Architecture = CONVNET,
    reference: Reference | None = None,
) -> Experiment:
    """Return one Label Solve of the paper; arguments as `kip_row`."""
    return Experiment(
        method=LabelSolve(images_per_class=images_per_class, kernel=kernel),
        data=Data(data, validation=5000),
        preprocess=_preprocess(zca, 0.1 if data.startswith("cifar") else 100.0),
        reference=reference,
    )


def reference(table: str, row: str, percent: float, spread: float | None = None) -> Reference:
    """Return what a table's row reports, percent as printed. Label Solve (one random seed) has no spread."""
    source = f"{PAPER}, {table}, {row}"
    return Reference(source, round(percent / 100, 4), None if spread is None else round(spread / 100, 4))


def words(data: str, ipc: int, *, zca: bool = False, labels: bool = False, aug: bool = False) -> str:
    """Return a row in words, such as `CIFAR-10, 10 images a class, ZCA, learned labels`."""
    on = [word for word, is_on in (("ZCA", zca), ("learned labels", labels), ("augmentation", aug)) if is_on]
    return ", ".join([TITLES[data], f"{ipc} image{'s' * (ipc > 1)} a class", *on])


def _preprocess(zca: bool, strength: float) -> Preprocess:
    return Preprocess("zca", strength) if zca else Preprocess("standardize")


def _parse(names: Iterable[str]) -> Iterator[tuple[str, int, dict[str, bool]]]:
    """Yield (name, images a class, options) of row names such as `ipc10_zca_aug`."""
    for name in names:
        first, *on = name.split("_")
        if not first.startswith("ipc") or on != ([option for option in OPTIONS if option in on] or ["plain"]):
            raise ValueError(f"row name {name!r}; expected ipcN_ and of {OPTIONS} some in this order, or plain")
        yield name, int(first.removeprefix("ipc")), {option: option in on for option in OPTIONS}
