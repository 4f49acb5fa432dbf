"""The content of a comparison's table: the sets that it judges, beside which natural images, and its cells."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from kip import config, data
from kip.blocks import KernelBlocks
from kip.config import value
from kip.errors import ConfigError, did_you_mean
from kip.evaluate.cells import Candidate, Squeezed
from kip.evaluate.prepared import check_classes, check_data
from kip.evaluate.setting import Setting, Shared
from kip.experiment import Experiment
from kip.judges import Students
from kip.methods.selection import rules
from kip.methods.selection.selection import Selection
from kip.networks import Network
from kip.networks.model import CONVNET
from kip.runs import folder
from kip.runs.setup import problem_of
from kip.sets.distilled import DistilledSet
from kip.storage.json_files import read_object
from kip.training.protocols import PROTOCOLS, Protocol, for_set

Baseline = Literal["random", "herding", "k_centers", "medoids", "facility_location"]
BASELINES: dict[Baseline, rules.Rule] = {
    "random": rules.Random(),
    "herding": rules.Herding(),
    "k_centers": rules.KCenters(),
    "medoids": rules.Medoids(),
    "facility_location": rules.FacilityLocation(),
}
"""The rules of baselines; images are their pixels."""


@value
class Comparison:
    """The content of the table, and the training of its networks."""

    protocols: Annotated[tuple[str, ...], Field(min_length=1)] = ("HL",)
    """The protocols that networks are trained under: HL, SL, SL+KD, FKD, DC-BENCH, MTT, OWN, and others that
    `kip.training.protocols` lists."""
    networks: Annotated[tuple[Network, ...], Field(min_length=1)] = (CONVNET,)
    """The networks that are trained on the sets. With several, their average is given as well."""
    baselines: tuple[Baseline, ...] = ()
    """The natural images that sets are compared with, for each number of images per class in the table: drawn at
    random, or chosen by their pixels."""
    epochs: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """The number of passes over the set. None given takes each protocol's own; several make a column each."""
    seeds: Annotated[int, Field(ge=1)] = 5
    """Networks that are trained for each cell of the table."""
    runs: Annotated[int, Field(ge=1)] = 1
    """The number of runs of each configuration, with its own seed and the next ones. With several, the table tells the
    spread of runs from that of the networks that are trained on one set."""
    teacher: Network = CONVNET
    """The network that gives soft labels. It is trained on the whole train split under the augmentation of the views
    that it labels, and kept for other tables."""
    teacher_epochs: Annotated[int, Field(ge=1)] = 50
    """The number of passes of the teacher over the train split, in batches of 128."""
    rate: Annotated[float, Field(gt=0)] | None = None
    """The learning rate of sets without one of their own, natural images too, under protocols that take the set's rate,
    such as MTT. None refuses such sets there."""
    seed: Annotated[int, Field(ge=0)] = 0
    """The seed of initial parameters, batches, augmentations and draws."""

    def __post_init__(self) -> None:
        if len(set(self.epochs)) < len(self.epochs):
            raise ConfigError("epochs", got=self.epochs, expected="each number once")
        if unknown := set(self.protocols) - set(PROTOCOLS):
            meant = did_you_mean(sorted(unknown)[0], PROTOCOLS).strip() or None
            raise ConfigError("protocol", got=", ".join(sorted(unknown)), expected=", ".join(PROTOCOLS), remedy=meant)

    @property
    def chosen_protocols(self) -> list[Protocol]:
        """The protocols, with the number of passes that is asked for; with several, their names say which."""
        chosen = [PROTOCOLS[name] for name in self.protocols]
        if not self.epochs:
            return chosen
        return [
            dataclasses.replace(
                protocol, epochs=count, name=f"{protocol.name} {count}" if len(self.epochs) > 1 else protocol.name
            )
            for protocol in chosen
            for count in self.epochs
        ]


class Entry(NamedTuple):
    """A set that is compared, and what is known of its making.

    Attributes:
        name: for the table.
        distilled: the set.
        seconds: the time of the steps of its run; None where the set is not in a run's folder.
        peak_memory_mib: the largest resident memory of its run's process; None where that is not known.
    """

    name: str
    distilled: DistilledSet
    seconds: float | None
    peak_memory_mib: int | None


class Cells:
    """The cells of a comparison: which sets are judged beside which natural images, on which data.

    Args:
        comparison: networks, protocols, baselines and seeds.
        cells: the folder of known cells.
        data_dir: where `NAME.npz` is, if not in $KIP_DATA_DIR.
        show_progress: whether trainings show bars on stderr.
        kept: the number of data sets that stay in memory.
    """

    def __init__(
        self, comparison: Comparison, cells: Path, *, data_dir: Path | None, show_progress: bool, kept: int = 1
    ):
        self._comparison, self._folder, self._data_dir = comparison, cells, data_dir
        self._setting = functools.lru_cache(kept)(functools.partial(Setting, show_progress=show_progress))
        self._baselines: dict[tuple[Shared, Baseline, int], Candidate] = {}

    def setting(self, entry: Entry) -> Setting:
        """Return the setting of a set, which others of its data and preprocessing share."""
        origin, comparison = entry.distilled.origin, self._comparison
        shared = Shared(
            origin.data,
            origin.preprocess,
            comparison.seed,
            self._folder,
            comparison.seeds,
            comparison.teacher,
            comparison.teacher_epochs,
            self._data_dir,
        )
        return self._setting(shared)

    def rows(self, members: Sequence[Entry], *, named: bool) -> list[tuple[Candidate, dict[str, Any]]]:
        """Return sets of one setting and their baselines, each with what the table says of it.

        Args:
            members: the sets.
            named: whether the names of baselines say the data set and preprocessing.

        Raises:
            DataError: if a set is of other data than its data set has.
        """
        setting, made = self.setting(members[0]), []
        for entry in members:
            check_data(entry.distilled, setting.dataset)
            candidate = _candidate(entry, self._comparison)
            made.append((candidate, _row(entry.name, _method(entry.distilled), len(candidate.images), setting, entry)))
        sizes = sorted({row["images_per_class"] for _, row in made})
        for per_class, rule in itertools.product(sizes, self._comparison.baselines):
            known_as = setting.shared, rule, per_class
            if known_as not in self._baselines:
                self._baselines[known_as] = _baseline(rule, per_class, setting, self._comparison)
            candidate = self._baselines[known_as]
            if named:
                name = f"{setting.name} {setting.preprocess.kind} {candidate.name}"
                candidate = candidate._replace(name=name)
            made.append((candidate, _row(candidate.name, rule, len(candidate.images), setting)))
        return made

    def of_rows(
        self, rows: Sequence[tuple[Candidate, dict[str, Any]]], setting: Setting
    ) -> list[tuple[Candidate, dict[str, Any], Network, Protocol]]:
        """Return the cells of rows, each protocol as its source has it for the set."""
        return [
            (candidate, row, network, fitted_to(protocol, candidate, network, setting, row["images_per_class"]))
            for (candidate, row), network, protocol in itertools.product(
                rows, self._comparison.networks, self._comparison.chosen_protocols
            )
        ]


def entry_of(name: str, path: Path) -> Entry:
    """Return the entry of a set in a file, or of a run."""
    (distilled,) = folder.read_sets(path)
    check_classes(distilled, "a comparison")
    of_run = path if path.is_dir() else path.parent
    is_of_run = path.is_dir() or path.name == folder.DISTILLED
    result = read_object(of_run / folder.RESULT, ["seconds"]) if is_of_run else None
    if result is None:
        return Entry(name, distilled, None, None)
    return Entry(name, distilled, float(result["seconds"]), result.get("peak_memory_mib"))


def by_setting(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Return the entries of each data set and preprocessing, in the order in which they came."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        origin = entry.distilled.origin  # read, and not as written: a set of an older kip lacks later fields
        parts = [config.to_dict(origin.data), config.to_dict(origin.preprocess)]
        groups.setdefault(json.dumps(parts, sort_keys=True), []).append(entry)
    return list(groups.values())


def _baseline(rule: Baseline, per_class: int, setting: Setting, comparison: Comparison) -> Candidate:
    """Return natural images of each class, chosen by a rule.

    Args:
        rule: how.
        per_class: images of each class.
        setting: their data set.
        comparison: the seed, and networks that they are for.
    """
    method = Selection(per_class, rule=BASELINES[rule], network=comparison.networks[0])
    wanted = Experiment(method, data=setting.data, preprocess=setting.preprocess, seed=comparison.seed)
    with KernelBlocks(wanted.blocks) as blocks:
        problem = problem_of(wanted, setting.dataset, setting.transform, blocks, None)
        chosen = method.prepare(problem, setting.store).indices
    labels = data.centred_one_hot(problem.labels[chosen], problem.num_classes)
    return Candidate(f"{rule} {per_class}", problem.inputs[chosen], labels, comparison.rate)


def _candidate(entry: Entry, comparison: Comparison) -> Candidate:
    """Return a set with what its file says of its learning rate and of the networks that it was made from."""
    support, origin = entry.distilled.support, entry.distilled.origin
    squeezed = None
    if isinstance(origin.judge, Students) and origin.judge.teachers:
        squeezed = Squeezed(origin.judge.teachers, origin.judge.squeeze, origin.seed)
    rate = comparison.rate if support.learning_rate is None else support.learning_rate
    return Candidate(entry.name, support.inputs, support.labels, rate, squeezed)


def fitted_to(
    protocol: Protocol, candidate: Candidate, network: Network, setting: Setting, images_per_class: int
) -> Protocol:
    """Return a protocol as its source has it for a set (`kip.training.protocols.for_set`).

    Several networks label views before the training, as float16, where one would label them in the training.
    """
    teachers = setting.teachers_of(candidate, protocol)
    if protocol.labels == "teacher on views" and len(teachers) > 1:
        protocol = dataclasses.replace(protocol, labels="stored views")
    return for_set(
        protocol,
        classes=candidate.labels.shape[1],
        images_per_class=images_per_class,
        student=network,
        teacher=teachers[0].network if len(teachers) == 1 else None,
    )


def _method(distilled: DistilledSet) -> str:
    """Return what the table calls a set's method: its name, or the rule by which it chose natural images."""
    method = distilled.origin.experiment["method"]
    if method["name"] == "selection" and isinstance(rule := method.get("rule"), dict):
        return rules.name(rule)
    return str(method.get("by") or method.get("score") or method["name"])  # the first two are of sets of an older kip


def _row(name: str, method: str, count: int, setting: Setting, entry: Entry | None = None) -> dict[str, Any]:
    """Return what the table says of a set; of baselines, there is no entry."""
    distilled = None if entry is None else entry.distilled
    return {
        "name": name,
        "data": setting.name,
        "preprocess": setting.preprocess.kind,
        "method": method,
        "images": count,
        "images_per_class": max(1, count // setting.dataset.num_classes),
        "seconds": None if entry is None else entry.seconds,
        "peak_memory_mib": None if entry is None else entry.peak_memory_mib,
        "judge": None if distilled is None else distilled.origin.judge.label,
        "own_test_accuracy": None if distilled is None else distilled.metadata.get("test_accuracy"),
    }
