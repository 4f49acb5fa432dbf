"""What sets of one data set and preprocessing share when networks are trained on them: test images and a teacher.

    FOLDER/DIGEST.json      a cell: a set, a network, a protocol and all seeds
    FOLDER/labels/          labels of views, where a protocol stores them

A cell that is known is not trained again: its digest stands for everything that its accuracies depend on.
"""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kip import config, data, preprocess
from kip.artefacts import Store, digest, identified
from kip.data import Data
from kip.evaluate.protocols import Candidate, Cell, judge, of_dict, seen_of
from kip.files import atomic_write
from kip.lazy import Images
from kip.machine import versions
from kip.metrics import read_object
from kip.networks import Network
from kip.preprocess import Preprocess
from kip.training.predict import accuracy
from kip.training.protocols import Protocol
from kip.training.supervised import Labeller, train_teacher

LABELS = "labels"


class Setting:
    """A data set, preprocessed, and how networks are trained on small sets of its images.

    Args:
        of_data: the data set.
        of_preprocess: the preprocessing.
        seed: the seed of initial parameters, batches and augmentations, and of the teacher.
        cells: the folder of known cells; None: none are kept.
        seeds: networks for each cell.
        teacher: the network that gives soft labels; None where no protocol asks for one.
        teacher_steps: its updates.
        data_dir: where `NAME.npz` is, if not in $KIP_DATA_DIR.
        show_progress: whether trainings show bars on stderr.
    """

    def __init__(
        self,
        of_data: Data,
        of_preprocess: Preprocess,
        *,
        seed: int,
        cells: Path | None = None,
        seeds: int = 1,
        teacher: Network | None = None,
        teacher_steps: int = 5000,
        data_dir: Path | None = None,
        show_progress: bool = False,
    ):
        self.data, self.preprocess = of_data, of_preprocess
        self.dataset = data.load(of_data, data_dir)
        self.transform = preprocess.fit(of_preprocess, self.dataset.train.images)
        self.store = Store(show_progress=show_progress)
        self._cells, self._seeds, self._seed = cells, seeds, seed
        self._labels = Store(None if cells is None else cells / LABELS, show_progress=show_progress)
        self._teacher, self._teacher_steps = teacher, teacher_steps

    @property
    def name(self) -> str:
        """The data set, for tables."""
        return config.label(self.data)

    def cell(self, candidate: Candidate, network: Network, protocol: Protocol) -> Cell:
        """Return a cell: the one that is known, or one that is trained now and kept.

        Raises:
            ConfigError: if the protocol needs a teacher and there is none.
        """
        soft = protocol.needs_teacher
        identity = {
            "set": digest(*seen_of(candidate, protocol)),
            "network": config.to_dict(network),
            "protocol": config.to_dict(protocol),
            "seeds": self._seeds,
            "seed": self._seed,
            "setting": self._identity,
            "teacher": self._teacher_identity if soft and self._teacher is not None else None,
            "versions": versions(),
        }
        path = None if self._cells is None else self._cells / f"{identified(identity)}.json"
        known = None if path is None else of_dict(read_object(path, ["mean"]) or {})
        if known is not None:
            return known._replace(candidate=candidate.name)
        cell = judge(
            candidate, network, protocol, test=self._test, mirror_keeps_class=self.dataset.mirror_keeps_class,
            teacher=self.teacher if soft and self._teacher is not None else None, store=self._labels,
            seeds=self._seeds, seed=self._seed, show_progress=self.store.show_progress,
        )  # fmt: skip
        if path is not None:
            atomic_write(path, lambda file: file.write(json.dumps(cell._asdict()).encode()))
        return cell

    @property
    def teacher(self) -> Labeller:
        """The network that gives soft labels, trained or found."""
        return self._trained[0]

    def about_teacher(self) -> dict[str, Any]:
        """Return what a table says of the teacher, JSON-ready; it is tested for that."""
        teacher, validation_accuracy = self._trained
        return {
            "data": self.name,
            "preprocess": self.preprocess.kind,
            "network": teacher.model.network.label,
            "validation_accuracy": validation_accuracy,
            "test_accuracy": float(accuracy(teacher.model, teacher.variables, *self._test)),
        }

    @cached_property
    def _test(self) -> tuple[Images, np.ndarray]:
        """The test images, preprocessed, and their classes."""
        return self.transform.apply(self.dataset.test.images), self.dataset.test.labels

    @cached_property
    def _trained(self) -> tuple[Labeller, float]:
        """The teacher and its validation accuracy."""
        assert self._teacher is not None
        dataset = self.dataset
        return train_teacher(
            self._teacher,
            self.transform.apply(dataset.train.images),
            data.centred_one_hot(dataset.train.labels, dataset.num_classes),
            (self.transform.apply(dataset.validation.images), dataset.validation.labels),
            steps=self._teacher_steps,
            seed=self._seed,
            artefact=self.store.artefact("teacher", self._teacher_identity, shared=True),
            show_progress=self.store.show_progress,
        )

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """What accuracies on this data set depend on, JSON-ready."""
        return {
            "train": self.dataset.train.digest(),
            "test": self.dataset.test.digest(),
            "preprocess": config.to_dict(self.preprocess),
            "mirror_keeps_class": self.dataset.mirror_keeps_class,
        }

    @cached_property
    def _teacher_identity(self) -> dict[str, Any]:
        assert self._teacher is not None
        return {
            "network": config.to_dict(self._teacher),
            "steps": self._teacher_steps,
            "seed": self._seed,
            "validation": self.dataset.validation.digest(),
            **self._identity,
        }
