"""`kip compare`: one table of sets x networks x protocols, for sets in files, runs and configurations.

All sets of one data set and preprocessing share its test images, its baselines of natural images and its teachers; a
table may hold several data sets. Under the protocols of the decoupled methods, a set is labelled by the networks that
it was made from, where its method squeezed some (`kip.evaluate.setting`). A configuration is run to its end first, in
the table's folder, if it was not yet.

    OUT/runs/NAME/          the run of a configuration
    OUT/cells/DIGEST.json   a cell of the table: a set, a network, a protocol and all seeds
    OUT/comparison.json     the whole table; `kip.pictures.comparison` writes tables and pictures beside it

A comparison that is started again repeats no cell: a cell's digest stands for everything that its accuracies depend on.
One of other sets, networks or protocols in the same folder keeps the rows that the table has (`kip.evaluate.earlier`).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from kip import config, data, experiment
from kip.blocks import KernelBlocks
from kip.config import value
from kip.errors import ConfigError, did_you_mean
from kip.evaluate.cells import Candidate, Cell, Squeezed, cross_architecture, line
from kip.evaluate.dd_ranking import (
    augmentation_robust_score,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
)
from kip.evaluate.earlier import join_tables
from kip.evaluate.prepared import check_classes, check_data
from kip.evaluate.setting import Setting, Teacher
from kip.experiment import Experiment
from kip.judges import Students
from kip.methods.selection import rules
from kip.methods.selection.selection import Selection
from kip.networks import Network
from kip.networks.model import CONVNET
from kip.progress import counted, inner_stage
from kip.runs import folder, loop
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
RUNS, CELLS, TABLE = "runs", "cells", "comparison.json"
DSA = ("dsa", "dsa_no_flip")


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


def compare(
    sets: Sequence[str],
    comparison: Comparison,
    *,
    out: Path,
    vary: Sequence[str] = (),
    data_dir: Path | None = None,
    show_progress: bool = False,
    progress: Callable[[str], Any] = lambda line: None,
    save: Callable[[dict[str, Any]], Any] = lambda table: None,
) -> dict[str, Any]:
    """Return the table, JSON-ready, after what it lacks has been run and trained.

    Args:
        sets: .npz files, runs' folders, and names or files of configurations.
        comparison: networks, protocols, baselines and seeds.
        out: the folder of the table, which holds what a second start finds done.
        vary: `FIELD=VALUE,VALUE ...`: each configuration is run with each value; of several, with each combination.
        data_dir: where `NAME.npz` is, if not in $KIP_DATA_DIR.
        show_progress: whether trainings show bars on stderr.
        progress: called with a line after each cell.
        save: called with the table after each cell.

    Returns:
        `sets` (name, data, method, images, seconds of its making, ...), `cells` (`kip.evaluate.cells.Cell`, with
        `data` and `images_per_class`, the `batch` and `rate` of the training, the names of its `teachers`, and whether
        it is `above_random`),
        `average` over networks where there are several, `teachers` with their accuracies, and with the baseline
        `random` the `scores` of DD-Ranking; with the rows of the table that lies in `out`.

    Raises:
        ConfigError: if there is no set, or one whose labels are representations; or `vary` does not fit; or a protocol
            takes the set's learning rate, a set has none, and none is given.
        DataError: if a set cannot be read, or is of other data than its data set has.
        KipError: whatever a run raises.
    """
    if not sets:
        raise ConfigError("sets", got="none", expected="at least one set, run or configuration")
    configurations = {name: varied(name, experiment.load(name), vary) for name in sets if not _is_file(name)}
    if vary and not configurations:
        raise ConfigError("--vary", got=" ".join(vary), expected="a configuration among the sets, which it varies")
    # Sets in files are read before configurations take hours to run.
    known = {name: _entry(folder.name(Path(name)), Path(name)) for name in sets if _is_file(name)}
    protocols = comparison.chosen_protocols
    _check_rates([*known.values()], comparison)
    entries, number, count = [], 0, sum(map(len, configurations.values()))
    for name in sets:
        if name in known:
            entries.append(known[name])
        for source, wanted in configurations.get(name, []):
            number += 1
            run = out / RUNS / _file_name(source)
            if not folder.is_finished(run, wanted):
                progress(f"run {number} of {count}: {_short(source)}")
                loop.run(wanted, run, data_dir=data_dir, show_progress=show_progress)
            entries.append(_entry(_short(source), run))
    entries = _told_apart(entries, sets)
    _check_rates(entries, comparison)
    table: dict[str, Any] = {"sets": [], "cells": [], "average": [], "teachers": [], "scores": []}
    table["epochs"] = {protocol.name: protocol.epochs for protocol in protocols}
    earlier = read_object(out / TABLE)
    groups = _by_setting(entries)
    for members in groups:
        origin = members[0].distilled.origin
        setting = Setting(
            origin.data,
            origin.preprocess,
            cells=out / CELLS,
            seeds=comparison.seeds,
            seed=comparison.seed,
            teacher=comparison.teacher,
            teacher_epochs=comparison.teacher_epochs,
            data_dir=data_dir,
            show_progress=show_progress,
        )
        candidates, rows = [], []
        for entry in members:
            check_data(entry.distilled, setting.dataset)
            candidates.append(_candidate(entry, comparison))
            rows.append(_row(entry.name, _method(entry.distilled), len(candidates[-1].images), setting, entry))
        for per_class, rule in itertools.product(
            sorted({row["images_per_class"] for row in rows}), comparison.baselines
        ):
            candidates.append(_baseline(rule, per_class, setting, comparison, named=len(groups) > 1))
            rows.append(_row(candidates[-1].name, rule, len(candidates[-1].images), setting))
        table["sets"] += rows
        wanted_cells = list(itertools.product(zip(candidates, rows), comparison.networks, protocols))
        labelled: dict[Teacher, None] = {}
        counting = counted(wanted_cells, len(wanted_cells), "comparison", unit=" cells", shown=show_progress)
        for place, ((candidate, row), network, protocol) in enumerate(counting, 1):
            fitted = fitted_to(protocol, candidate, network, setting, row["images_per_class"])
            with inner_stage(f"{candidate.name}, {network.label}, {fitted.label}", names=False):
                cell = setting.cell(candidate, network, fitted)
            progress(f"{place:>3} of {len(wanted_cells)}  {line(cell)}")
            about = {name: row[name] for name in ("data", "preprocess", "method", "images_per_class")}
            teachers = setting.teachers_of(candidate, fitted)
            labelled |= dict.fromkeys(teachers)
            training = {
                "batch": fitted.batch,
                "rate": fitted.rate_for(candidate.rate),
                "teachers": [teacher.label for teacher in teachers],
            }
            table["cells"].append({**cell._asdict(), **about, **training})
            save(join_tables(earlier, table))
        table["teachers"] += [setting.about(teacher) for teacher in labelled]
    if len(comparison.networks) > 1:
        for (name, protocol), mean in cross_architecture([_of_row(row) for row in table["cells"]]).items():
            progress(f"{name:24} {'average':24} {protocol:9} {100 * mean:.2f} %")
    table = join_tables(earlier, table, progress)
    cells = [_of_row(row) for row in table["cells"]]
    if len({cell.network for cell in cells}) > 1:
        for (name, protocol), mean in cross_architecture(cells).items():
            table["average"].append({"candidate": name, "protocol": protocol, "mean": mean})
    table["scores"] = _scores(table)
    table["cells"] = marked(table["cells"])
    save(table)
    return table


def varied(name: str, given: Experiment, vary: Sequence[str]) -> list[tuple[str, Experiment]]:
    """Return the experiments of all combinations of values, each with a name that says what was changed.

    Args:
        name: the configuration's.
        given: the experiment.
        vary: `FIELD=VALUE,VALUE ...`, such as `method.learning_rate=0.01,0.04`; values are JSON, or words.

    Raises:
        ConfigError: if a text is of another form, a field does not exist, or a value does not fit.
    """
    choices = []
    for text in vary:
        field, equals, values = text.partition("=")
        if not equals or not field or not values:
            raise ConfigError("--vary", got=repr(text), expected="FIELD=VALUE,VALUE, such as seed=0,1,2")
        choices.append([(field, part) for part in values.split(",")])
    made = []
    for changes in itertools.product(*choices):
        parts = given.to_dict()
        for field, text in changes:
            *path, last = field.split(".")
            place = parts
            for key in path:
                place = place.get(key) if isinstance(place, dict) else None
            if not isinstance(place, dict) or last not in place:
                raise ConfigError(
                    f"--vary of {name}",
                    got=repr(field),
                    expected="a field of the configuration",
                    remedy=f"`kip distill {name} --help` lists them.",
                )
            try:
                place[last] = json.loads(text)
            except json.JSONDecodeError:
                place[last] = text
        source = " ".join([name, *(f"{field}={text}" for field, text in changes)])
        changed = given
        if changes:
            changed = config.from_json(Experiment, json.dumps(parts), source=source)
        made.append((source, changed))
    return made


def _is_file(name: str) -> bool:
    """Return whether a name is that of a set's file or of a run's folder, and not of a configuration."""
    return Path(name).is_dir() or Path(name).suffix == ".npz"


def _entry(name: str, path: Path) -> Entry:
    (distilled,) = folder.read_sets(path)
    check_classes(distilled, "a comparison")
    of_run = path if path.is_dir() else path.parent
    is_of_run = path.is_dir() or path.name == folder.DISTILLED
    result = read_object(of_run / folder.RESULT, ["seconds"]) if is_of_run else None
    if result is None:
        return Entry(name, distilled, None, None)
    return Entry(name, distilled, float(result["seconds"]), result.get("peak_memory_mib"))


def _short(source: str) -> str:
    """Return a configuration's name for the table: a file's without its folder and ending."""
    name, *changes = source.split(" ")
    return " ".join([Path(name).name.removesuffix(".py").removesuffix(".json"), *changes])


def _file_name(source: str) -> str:
    """Return a folder's name for a configuration, without what some file systems refuse."""
    return "".join(letter if letter.isalnum() or letter in "-_.=+" else "-" for letter in _short(source))


def _told_apart(entries: list[Entry], sets: Sequence[str]) -> list[Entry]:
    """Return the entries with names that differ: where two are alike, their paths are their names."""
    names = [entry.name for entry in entries]
    if len(set(names)) == len(names):
        return entries
    if len(entries) == len(sets) and len(set(sets)) == len(sets):
        return [
            entry._replace(name=given) if names.count(entry.name) > 1 else entry for entry, given in zip(entries, sets)
        ]
    raise ConfigError("sets", got=f"{max(names, key=names.count)} more than once", expected="each set once")


def _by_setting(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Return the entries of each data set and preprocessing, in the order in which they came."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        origin = entry.distilled.origin  # read, and not as written: a set of an older kip lacks later fields
        parts = [config.to_dict(origin.data), config.to_dict(origin.preprocess)]
        groups.setdefault(json.dumps(parts, sort_keys=True), []).append(entry)
    return list(groups.values())


def _baseline(rule: Baseline, per_class: int, setting: Setting, comparison: Comparison, *, named: bool) -> Candidate:
    """Return natural images of each class, chosen by a rule.

    Args:
        rule: how.
        per_class: images of each class.
        setting: their data set.
        comparison: the seed, and networks that they are for.
        named: whether its name says the data set and preprocessing.
    """
    method = Selection(per_class, rule=BASELINES[rule], network=comparison.networks[0])
    wanted = Experiment(method, data=setting.data, preprocess=setting.preprocess, seed=comparison.seed)
    with KernelBlocks(wanted.blocks) as blocks:
        problem = problem_of(wanted, setting.dataset, setting.transform, blocks, None)
        chosen = method.prepare(problem, setting.store).indices
    labels = data.centred_one_hot(problem.labels[chosen], problem.num_classes)
    where = f"{setting.name} {setting.preprocess.kind} " if named else ""
    return Candidate(f"{where}{rule} {per_class}", problem.inputs[chosen], labels, comparison.rate)


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


def _check_rates(entries: Sequence[Entry], comparison: Comparison) -> None:
    """Refuse sets without a learning rate under protocols that take the set's."""
    taking = [protocol for protocol in comparison.chosen_protocols if protocol.rate is None]
    if not taking or comparison.rate is not None:
        return
    without = [entry.name for entry in entries if entry.distilled.support.learning_rate is None]
    without += [f"baseline {rule}" for rule in comparison.baselines]
    if without:
        raise ConfigError(
            f"learning rate under protocol {taking[0].name}",
            got=f"none of {', '.join(without)}",
            expected="the rate that the set was learned with",
            remedy="Give the rate with --rate.",
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


def _of_row(row: dict[str, Any]) -> Cell:
    return Cell(**{name: row[name] for name in Cell._fields})


def marked(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the cells with `above_random`: whether the mean is above that of random natural images of the same size.

    It is None for these, and where the table has none.
    """
    same = ("data", "preprocess", "images_per_class", "network", "protocol")
    random = {tuple(cell[name] for name in same): cell["mean"] for cell in cells if cell["method"] == "random"}
    marked = []
    for cell in cells:
        drawn = None if cell["method"] == "random" else random.get(tuple(cell[name] for name in same))
        marked.append({**cell, "above_random": None if drawn is None else cell["mean"] > drawn})
    return marked


def _scores(table: dict[str, Any]) -> list[dict[str, Any]]:
    """Return DD-Ranking's scores of every cell, where the table has what they are made of; a missing score is None.

    The accuracy of the full set with hard labels is that of the teacher under DSA's augmentation, which HL has too, and
    so there is one for its network only.
    """
    full = {
        (row["data"], row["preprocess"], row["network"]): row["test_accuracy"]
        for row in table["teachers"]
        if row["augment"] in DSA and not row["squeezed"]
    }
    mean = {(row["candidate"], row["network"], row["protocol"]): row["mean"] for row in table["cells"]}
    random = {
        (row["data"], row["preprocess"], row["images_per_class"], row["network"], row["protocol"]): row["mean"]
        for row in table["cells"]
        if row["method"] == "random"
    }
    scores = []
    for row in table["cells"]:
        size = row["data"], row["preprocess"], row["images_per_class"], row["network"]

        def improvement(protocol: str, row: dict[str, Any] = row, size: tuple[Any, ...] = size) -> float | None:
            distilled, drawn = mean.get((row["candidate"], row["network"], protocol)), random.get((*size, protocol))
            return None if distilled is None or drawn is None else improvement_over_random(distilled, drawn)

        over_random = improvement(row["protocol"])
        if row["method"] == "random" or over_random is None:
            continue
        hard = mean.get((row["candidate"], row["network"], "HL"))
        of_full = full.get((row["data"], row["preprocess"], row["network"]))
        recovery = None if hard is None or of_full is None else hard_label_recovery(of_full, hard)
        augmented, plain = improvement("HL"), improvement("HL-plain")
        robust = None if augmented is None or plain is None else augmentation_robust_score(augmented, plain)
        scores.append(
            {
                "candidate": row["candidate"],
                "network": row["network"],
                "protocol": row["protocol"],
                "improvement_over_random": over_random,
                "hard_label_recovery": recovery,
                "label_robust_score": None if recovery is None else label_robust_score(recovery, over_random),
                "augmentation_robust_score": robust,
            }
        )
    return scores
