"""`kip protocols`: sets in files, baselines of natural images and a teacher, put into the table of `protocols`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from kip import data
from kip.config import value
from kip.errors import ConfigError
from kip.evaluate import runs
from kip.evaluate.natural import natural, prepared
from kip.evaluate.protocols import PROTOCOLS, Candidate, Cell, cross_architecture, k_centers, line, table, train_teacher
from kip.finite import Network


@value
class Judgement:
    """What is put into the table, and how it is trained."""

    protocols: Annotated[tuple[str, ...], Field(min_length=1)] = ("HL",)
    """Names in `PROTOCOLS`."""
    networks: Annotated[tuple[Network, ...], Field(min_length=1)] = (Network("ConvNet-D3"),)
    """The students."""
    baselines: tuple[Literal["random", "k-centers"], ...] = ()
    """Natural images of the first set's number."""
    epochs: Annotated[int, Field(ge=1)] | None = None
    """Instead of each protocol's."""
    seeds: Annotated[int, Field(ge=1)] = 5
    """Students of each cell."""
    teacher: Network = Network("ConvNet-D3")
    """For soft labels; trained on the whole train split."""
    teacher_steps: Annotated[int, Field(ge=1)] = 5000
    """Its updates, in batches of 100."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of initial parameters, batches, augmentations and draws."""

    def __post_init__(self) -> None:
        if unknown := set(self.protocols) - set(PROTOCOLS):
            raise ConfigError("protocol", got=", ".join(sorted(unknown)), expected=", ".join(PROTOCOLS))


def judge(
    paths: Sequence[Path],
    judgement: Judgement,
    *,
    data_dir: Path | None = None,
    progress: Callable[[str], Any] = lambda line: None,
    save: Callable[[dict[str, Any]], Any] = lambda found: None,
) -> dict[str, Any]:
    """Return the table of sets x networks x protocols, JSON-ready.

    Args:
        paths: .npz files or runs' folders; of one data set and preprocessing.
        judgement: the rest.
        data_dir: where `NAME.npz` is, if not in $KIP_DATA_DIR.
        progress: called with a line after each cell.
        save: called after each cell with what is known so far, and again with `average` where there is one.

    Returns:
        `cells` (set, network, protocol, mean, deviation, accuracies), `average` over networks where there are several,
        and `teacher_validation_accuracy`, None without soft labels.

    Raises:
        ConfigError: if there is no set, or they differ in data or preprocessing.
        DataError: if a set cannot be read, or is of other data.
    """
    if not paths:
        raise ConfigError("sets", got="none", expected="at least one")
    loaded = [runs.sets(path)[0] for path in paths]
    first = loaded[0]
    for path, one in zip(paths, loaded):
        if (one.experiment.data, one.experiment.preprocess) != (first.experiment.data, first.experiment.preprocess):
            raise ConfigError("sets of one table", got=f"{path} with other data or preprocessing", expected="the same")
    dataset, apply = prepared(first, data_dir)
    names = [runs.name(path) for path in paths]
    candidates = [Candidate(name, one.images_preprocessed, one.labels) for name, one in zip(names, loaded)]
    count = len(first.images)
    if "random" in judgement.baselines:
        candidates.append(Candidate("random", *natural(dataset, apply, count, judgement.seed, 0)))
    if "k-centers" in judgement.baselines:
        chosen = k_centers(apply(dataset.train.images), dataset.train.labels, count // dataset.num_classes)
        labels = data.centred_one_hot(dataset.train.labels[chosen], dataset.num_classes)
        candidates.append(Candidate("k-centers", apply(dataset.train.images[chosen]), labels))
    chosen_protocols = [PROTOCOLS[name] for name in judgement.protocols]
    if judgement.epochs is not None:
        chosen_protocols = [dataclasses.replace(one, epochs=judgement.epochs) for one in chosen_protocols]
    validation, test = ((apply(split.images), split.labels) for split in (dataset.validation, dataset.test))
    teacher, teacher_accuracy = None, None
    if any(one.labels.startswith("teacher") for one in chosen_protocols):
        labels = data.centred_one_hot(dataset.train.labels, dataset.num_classes)
        teacher, teacher_accuracy = train_teacher(
            judgement.teacher,
            apply(dataset.train.images),
            labels,
            validation,
            steps=judgement.teacher_steps,
            seed=judgement.seed,
        )
        progress(f"teacher {judgement.teacher.label}: validation {100 * teacher_accuracy:.2f} %")
    found: dict[str, Any] = {
        "cells": [],
        "average": [],
        "epochs": [one.epochs for one in chosen_protocols],
        "images": [int(np.size(one.images, 0)) for one in candidates],
        "teacher_validation_accuracy": teacher_accuracy,
    }

    def note(cell: Cell) -> None:
        progress(line(cell))
        found["cells"].append(cell._asdict())
        save(found)

    cells = table(
        candidates,
        judgement.networks,
        chosen_protocols,
        validation=(validation[0][:1], validation[1][:1]),  # nothing is chosen: see `protocols`
        test=test,
        teacher=teacher,
        seeds=judgement.seeds,
        seed=judgement.seed,
        progress=note,
    )
    if len(judgement.networks) > 1:
        for (name, protocol), mean in cross_architecture(cells).items():
            found["average"].append({"candidate": name, "protocol": protocol, "mean": mean})
            progress(f"{name:16} {'average':24} {protocol:9} {100 * mean:.2f} %")
        save(found)
    return found
