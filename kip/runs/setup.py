"""The beginning of a run: its data set checked against its method's needs, and the problem that the method is given."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np

from kip import data
from kip.blocks import KernelBlocks
from kip.data import ClassIndex
from kip.errors import ConfigError
from kip.experiment import Experiment
from kip.judges import KernelJudge
from kip.kernels import Features, own_function, permission
from kip.methods.ahead import Ahead
from kip.methods.problem import Problem
from kip.preprocess import Transform
from kip.runs.forecast import check_memory

LOGGER = logging.getLogger(__name__)


def check_functions(experiment: Experiment) -> None:
    """Refuse functions of the user's own that a .json configuration names and nobody permits.

    Raises:
        ConfigError: naming the function and how to permit it.
    """
    for kernel in experiment.method.needs.kernels:
        if (function := own_function(kernel)) is not None:
            permission.check(function)


def check_spreads(experiment: Experiment, executor: str) -> None:
    """Refuse to start workers for a run that has no work for them: kernel blocks alone are spread.

    Args:
        experiment: what is run.
        executor: its name, for the error.

    Raises:
        ConfigError: if neither the method nor the judge of its sets computes kernels.
    """
    method = experiment.method
    if not method.needs.kernels and not isinstance(method.judge, KernelJudge):
        raise ConfigError(
            f"--executor {executor} with the method {method.name!r}",
            got="a method that computes no kernels",
            expected="--executor local",
            remedy="Workers compute blocks of kernels and nothing else, and would wait for the whole run. "
            "Leave out --executor: a method with networks uses every device of this process.",
        )
    kernels = method.needs.kernels or (method.judge.kernels if isinstance(method.judge, KernelJudge) else ())
    if kernels and all(isinstance(kernel, Features) for kernel in kernels):
        raise ConfigError(
            f"--executor {executor} with the kernel {kernels[0].label}",
            got="the kernel of an encoder",
            expected="--executor local",
            remedy="Features are computed once an image, in this process, and workers would wait for the whole run.",
        )


def fitted(experiment: Experiment, dataset: data.Dataset) -> Experiment:
    """Return the experiment with a default target batch that its classes can give; what a user wrote stays.

    The smaller batch is named in the log, and is part of the configuration that the run keeps.
    """
    method: Any = experiment.method
    defaults = {field.name: field.default for field in dataclasses.fields(method)}
    wanted = experiment.method.needs.target_batch
    if wanted is None or defaults.get("target_batch") != wanted or wanted == len(dataset.train.labels):
        return experiment
    possible = _largest_batch(experiment, dataset)
    if wanted <= possible:
        return experiment
    LOGGER.warning(
        "method.target_batch is %d instead of %d: the smallest class of %r has %d train images",
        possible,
        wanted,
        dataset.name,
        np.bincount(dataset.train.labels, minlength=dataset.num_classes).min(),
    )
    return dataclasses.replace(experiment, method=dataclasses.replace(method, target_batch=possible))


def _largest_batch(experiment: Experiment, dataset: data.Dataset) -> int:
    """Return the most target images that a step can draw without replacement."""
    if not experiment.method.needs.balanced:
        return len(dataset.train.labels)
    return int(np.bincount(dataset.train.labels, minlength=dataset.num_classes).min()) * dataset.num_classes


def check_data(experiment: Experiment, dataset: data.Dataset) -> None:
    """Refuse, before anything is compiled, what the data set cannot give.

    Raises:
        ConfigError: naming the option, or the function of a kernel that nobody permits.
        DataError: if the images, or those that the method takes at once, do not fit into memory.
        ShapeError: if the images are too small for a kernel.
    """
    needs = experiment.method.needs
    check_memory(dataset, needs)
    _, height, width, channels = dataset.train.images.shape
    if not len(dataset.validation.labels):
        raise ConfigError(
            "data.validation: a run chooses its checkpoint on validation images",
            got="none",
            expected="at least one",
            remedy="Hold out some train images; by default a tenth, at most 5000.",
        )
    check_functions(experiment)
    for kernel in needs.kernels:
        kernel.check_images(height, width)
    sizes = np.bincount(dataset.train.labels, minlength=dataset.num_classes)
    smallest = int(sizes.min())
    per_class: dict[str, int] = {}
    if needs.images_per_class is not None:
        per_class["method.images_per_class"] = needs.images_per_class
    if not needs.balanced and (needs.target_batch or 0) > len(dataset.train.labels):
        raise ConfigError(
            "method.target_batch is larger than the train set",
            got=needs.target_batch,
            expected=f"at most {len(dataset.train.labels)}",
        )
    if needs.balanced and needs.target_batch is not None and needs.target_batch != len(dataset.train.labels):
        per_class["method.target_batch"] = -(-needs.target_batch // dataset.num_classes)
    for name, wanted in per_class.items():
        if wanted > smallest:
            which = int(sizes.argmin())
            called = dataset.class_names[which] if which < len(dataset.class_names) else str(which)
            most = smallest * (dataset.num_classes if name == "method.target_batch" else 1)
            remedy = f"Set --{name.replace('_', '-')} {most}" if most else f"Give the class {called} more images"
            raise ConfigError(
                f"{name} is larger than a class: the class {called} of {dataset.name!r} has {smallest} train images",
                got=f"{wanted} images a class",
                expected=f"at most {smallest}",
                remedy=f"{remedy}, or hold out fewer validation images (--data.validation).",
            )
    if experiment.augment.policy.startswith("autoaugment") and channels != 3:
        raise ConfigError(
            f"augment.policy {experiment.augment.policy!r} for the data set {dataset.name!r}",
            got=f"{channels} channel",
            expected="3 channels",
            remedy="Use rotate_shift for grey images.",
        )


def problem_of(
    experiment: Experiment, dataset: data.Dataset, transform: Transform, blocks: KernelBlocks, data_dir: Path | None
) -> Problem:
    """Return the train set and the tools, as `Problem` describes them."""
    train, base = dataset.train, experiment.method.needs.base
    return Problem(
        pixels=train.images,
        inputs=transform.apply(train.images),
        labels=train.labels,
        num_classes=dataset.num_classes,
        classes=ClassIndex(train.labels, dataset.num_classes),
        transform=transform,
        augment=experiment.augment,
        blocks=blocks,
        seed=experiment.seed,
        base=None if base is None else data.load(data.Data(base), data_dir).train,
        mirror_keeps_class=dataset.mirror_keeps_class,
        ahead=Ahead(),
    )
