"""Test images and teachers, which sets of one data set and preprocessing share.

    FOLDER/DIGEST.json      a cell: a set, a network, a protocol and all seeds
    FOLDER/labels/          labels of views, where a protocol stores them

A cell that is known is not trained again: its digest stands for everything that its accuracies depend on. Processes
that want the same cell, or the same teacher, train it once.

A teacher has learned the train split under the augmentation of the views that it labels: DSA's for SL and SL+KD, which
is the same teacher, another one for each other augmentation. Protocols of the decoupled methods take the networks that
a set was made from, where its method squeezed some.
"""

from __future__ import annotations

import contextlib
import functools
import json
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kip import config, data, preprocess
from kip.data import Data
from kip.evaluate.cells import Candidate, Cell, judge, of_dict, seen_of
from kip.machine import versions
from kip.networks import Network
from kip.preprocess import Preprocess
from kip.storage.artefacts import Store, digest, identified
from kip.storage.files import atomic_write
from kip.storage.images import Images
from kip.storage.json_files import read_object
from kip.storage.locks import sole_maker
from kip.training.augment import Augmentation, for_classes
from kip.training.predict import accuracy
from kip.training.protocols import Protocol
from kip.training.squeeze import Squeeze, squeeze, teacher_recipe
from kip.training.supervised import Labeller, train_teacher

LABELS = "labels"


class Teacher(NamedTuple):
    """A network that labels sets, and how it learned the train split; what it is known by."""

    network: Network
    squeeze: Squeeze
    augment: Augmentation
    """The variation of the images."""
    seed: int
    squeezed: bool
    """True if sets were made from it."""

    @property
    def label(self) -> str:
        """The network, how it saw the train images, and for how long; for tables."""
        made = ", squeezed" if self.squeezed else ""
        return f"{self.network.label}, {self.augment}, {self.squeeze.epochs} epochs{made}"


class Shared(NamedTuple):
    """The data set of a setting, and the options of its trainings: a value that processes hand to each other."""

    data: Data
    """The data set."""
    preprocess: Preprocess
    """The preprocessing."""
    seed: int
    """The seed of initial parameters, batches and augmentations, and of the teachers."""
    cells: Path | None = None
    """The folder of known cells; None: none are kept."""
    seeds: int = 1
    """Networks for each cell."""
    teacher: Network | None = None
    """The network that gives soft labels; None where no protocol asks for one."""
    teacher_epochs: int = 50
    """The teacher's passes over the train images."""
    data_dir: Path | None = None
    """The folder of `NAME.npz`, if not $KIP_DATA_DIR."""


class Setting:
    """A data set, preprocessed, and how networks are trained on small sets of its images.

    Args:
        shared: the data set, and the options of the trainings.
        show_progress: whether trainings show bars on stderr.
    """

    def __init__(self, shared: Shared, *, show_progress: bool = False):
        self.shared = shared
        self.data, self.preprocess = shared.data, shared.preprocess
        self.dataset = data.load(shared.data, shared.data_dir)
        self.transform = preprocess.fit(shared.preprocess, self.dataset.train.images)
        self.store = Store(show_progress=show_progress)
        cells = shared.cells
        self._cells, self._seeds, self._seed = cells, shared.seeds, shared.seed
        self._labels = Store(None if cells is None else cells / LABELS, show_progress=show_progress)
        self._teacher, self._teacher_epochs = shared.teacher, shared.teacher_epochs
        self._trained: dict[Teacher, Labeller] = {}

    @property
    def name(self) -> str:
        """The data set, for tables."""
        return config.label(self.data)

    def cell(self, candidate: Candidate, network: Network, protocol: Protocol) -> Cell:
        """Return a cell: the one that is known, or one that is trained now and kept.

        Raises:
            ConfigError: if the protocol needs a teacher and there is none, or the rate of a set that has none.
        """
        path = self.place_of(candidate, network, protocol)
        if path is None:
            return self._judged(candidate, network, protocol)
        with contextlib.nullcontext() if path.exists() else sole_maker(path):
            cell = known_cell(path)
            if cell is None:
                cell = self._judged(candidate, network, protocol)
                text = json.dumps(cell._asdict())
                atomic_write(path, lambda file: file.write(text.encode()))
        return cell._replace(candidate=candidate.name)

    def place_of(self, candidate: Candidate, network: Network, protocol: Protocol) -> Path | None:
        """Return the file of a cell, whose name stands for everything that its accuracies depend on.

        None comes back where no cells are kept.
        """
        if self._cells is None:
            return None
        teachers = self.teachers_of(candidate, protocol)
        identity = {
            "set": digest(*seen_of(candidate, protocol)),
            "network": config.to_dict(network),
            # The teachers are named below; which of them a protocol asks for is no other training.
            "protocol": {name: part for name, part in config.to_dict(protocol).items() if name != "teacher"},
            "seeds": self._seeds,
            "seed": self._seed,
            "setting": self._identity,
            "teacher": [self._identity_of(teacher) for teacher in teachers] or None,
            "versions": versions(),
        }
        if protocol.rate is None:
            identity["rate"] = candidate.rate
        if len(candidate.images) > protocol.batch:
            identity["drawn"] = protocol.recipe(len(candidate.images), mirror_keeps_class=True).drawn
        return self._cells / f"{identified(identity)}.json"

    def _judged(self, candidate: Candidate, network: Network, protocol: Protocol) -> Cell:
        return judge(
            candidate,
            network,
            protocol,
            test=self._test,
            mirror_keeps_class=self.dataset.mirror_keeps_class,
            teachers=[self.labeller(teacher) for teacher in self.teachers_of(candidate, protocol)],
            store=self._labels,
            seeds=self._seeds,
            seed=self._seed,
            show_progress=self.store.show_progress,
        )

    def teachers_of(self, candidate: Candidate, protocol: Protocol) -> list[Teacher]:
        """Return which networks label a set under a protocol; none where it does without, or there are none.

        They are those that the set was made from, where the protocol takes them and there are some, and otherwise the
        setting's teacher under the augmentation of the protocol's views.
        """
        if not protocol.needs_teacher:
            return []
        made_from = candidate.squeezed if protocol.teacher == "squeezed" else None
        if made_from is not None:
            augment = for_classes("flip_shift", self.dataset.mirror_keeps_class)
            return [Teacher(each, made_from.squeeze, augment, made_from.seed, True) for each in made_from.networks]
        if self._teacher is None:
            return []
        augment = for_classes(protocol.augment or "dsa", self.dataset.mirror_keeps_class)
        return [Teacher(self._teacher, teacher_recipe(self._teacher_epochs), augment, self._seed, False)]

    def labeller(self, teacher: Teacher) -> Labeller:
        """Return a teacher, trained or found."""
        if teacher not in self._trained:
            dataset = self.dataset
            model, variables = squeeze(
                teacher.squeeze,
                teacher.network,
                *self._train,
                dataset.num_classes,
                seed=teacher.seed,
                mirror_keeps_class=dataset.mirror_keeps_class,
                store=self.store,
                augment=teacher.augment,
            )
            self._trained[teacher] = Labeller(model, variables)
        return self._trained[teacher]

    def about(self, teacher: Teacher) -> dict[str, Any]:
        """Return what a table says of a teacher, JSON-ready; it is validated and tested for that."""
        model, variables, _ = self.labeller(teacher)
        splits = {"validation": self._validation, "test": self._test}
        return {
            "data": self.name,
            "preprocess": self.preprocess.kind,
            "label": teacher.label,
            "network": model.network.label,
            "augment": teacher.augment,
            "epochs": teacher.squeeze.epochs,
            "squeezed": teacher.squeezed,
            **{
                f"{name}_accuracy": float(accuracy(model, variables, images, classes)) if len(images) else None
                for name, (images, classes) in splits.items()
            },
        }

    def features(self, network: Network, *, steps: int) -> Labeller:
        """Return a network that learned the train images as they are, trained or found; it labels nothing.

        Args:
            network: its architecture.
            steps: updates in batches of 100; see `kip.training.supervised.train_teacher`.
        """
        dataset, (images, classes) = self.dataset, self._train
        identity = {
            "network": config.to_dict(network),
            "steps": steps,
            "seed": self._seed,
            "validation": dataset.validation.digest(),
            **self._identity,
        }
        artefact = self.store.artefact("features", identity, shared=True)
        with artefact.made_once():
            return train_teacher(
                network,
                images,
                data.centred_one_hot(classes, dataset.num_classes),
                self._validation,
                steps=steps,
                seed=self._seed,
                artefact=artefact,
                show_progress=self.store.show_progress,
            )[0]

    @cached_property
    def _train(self) -> tuple[Images, np.ndarray]:
        """The train images, preprocessed, and their classes."""
        return self.transform.apply(self.dataset.train.images), self.dataset.train.labels

    @cached_property
    def _validation(self) -> tuple[Images, np.ndarray]:
        """The validation images, preprocessed, and their classes."""
        return self.transform.apply(self.dataset.validation.images), self.dataset.validation.labels

    @cached_property
    def _test(self) -> tuple[Images, np.ndarray]:
        """The test images, preprocessed, and their classes."""
        return self.transform.apply(self.dataset.test.images), self.dataset.test.labels

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """The settings that accuracies on this data set depend on, JSON-ready."""
        return {
            "train": self.dataset.train.digest(),
            "test": self.dataset.test.digest(),
            "preprocess": config.to_dict(self.preprocess),
            "mirror_keeps_class": self.dataset.mirror_keeps_class,
        }

    def _identity_of(self, teacher: Teacher) -> dict[str, Any]:
        """The settings that a teacher's labels depend on besides the data set, JSON-ready."""
        return {
            "network": config.to_dict(teacher.network),
            "squeeze": config.to_dict(teacher.squeeze),
            "augment": teacher.augment,
            "seed": teacher.seed,
        }


def known_cell(path: Path) -> Cell | None:
    """Return the cell of a file; None where there is none that can be used."""
    return of_dict(read_object(path, ["mean"]) or {})


@functools.lru_cache(maxsize=2)
def setting_of(shared: Shared) -> Setting:
    """Return a setting, the same one as long as a process works for it: reading and whitening take a while."""
    return Setting(shared, show_progress=True)
