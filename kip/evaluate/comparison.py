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
from typing import Any

import numpy as np

from kip import config, experiment
from kip.errors import ConfigError
from kip.evaluate import parallel
from kip.evaluate.cells import Cell, cross_architecture, line
from kip.evaluate.dd_ranking import (
    augmentation_robust_score,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
)
from kip.evaluate.earlier import join_tables
from kip.evaluate.parallel import Wanted
from kip.evaluate.setting import Teacher
from kip.evaluate.table import Cells, Comparison, Entry, by_setting, entry_of
from kip.experiment import Experiment
from kip.progress import counted, inner_stage
from kip.runs import folder, jobs, loop
from kip.storage.json_files import read_object

RUNS, CELLS, TABLE = "runs", "cells", "comparison.json"
DSA = ("dsa", "dsa_no_flip")
SETTINGS = 4
"""The number of data sets that stay in memory where several processes compute: their cells come in any order."""


def compare(
    sets: Sequence[str],
    comparison: Comparison,
    *,
    out: Path,
    vary: Sequence[str] = (),
    data_dir: Path | None = None,
    pool: jobs.Pool | None = None,
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
        pool: processes that compute runs, teachers and cells first (`kip.evaluate.parallel`); the table, and the bits
            in it, are those of one process. None: this process computes.
        show_progress: whether trainings show bars on stderr.
        progress: called with a line after each cell.
        save: called with the table after each cell.

    Returns:
        `sets` (name, data, method, images, seconds of its making, ...), `cells` (`kip.evaluate.cells.Cell`, with
        `data` and `images_per_class`, the `batch` and `rate` of the training, the names of its `teachers`, and whether
        it is `above_random`),
        `average` over networks where there are several, `teachers` with their accuracies, and with the baseline
        `random` the `scores` of DD-Ranking; `runs`, what several runs of one configuration give together; with the rows
        of the table that lies in `out`.

    Raises:
        ConfigError: if there is no set, or one whose labels are representations; or `vary` does not fit; or a protocol
            takes the set's learning rate, a set has none, and none is given.
        DataError: if a set cannot be read, or is of other data than its data set has.
        KipError: whatever a run raises.
    """
    if not sets:
        raise ConfigError("sets", got="none", expected="at least one set, run or configuration")
    if comparison.runs > 1 and any(text.startswith("seed=") for text in vary):
        raise ConfigError("--runs", got=f"{comparison.runs}, and --vary of the seed", expected="one of the two")
    with experiment.each_file_once():
        varieties = {name: varied(name, experiment.load(name), vary) for name in sets if not _is_file(name)}
    configurations = {name: repeated(rows, comparison.runs) for name, rows in varieties.items()}
    runs_of = {
        jobs.short(source): jobs.short(row)
        for rows in varieties.values()
        for row, wanted in rows
        for source, _ in repeated([(row, wanted)], comparison.runs)
        if source != row
    }
    if vary and not configurations:
        raise ConfigError("--vary", got=" ".join(vary), expected="a configuration among the sets, which it varies")
    if comparison.runs > 1 and not configurations:
        raise ConfigError("--runs", got=comparison.runs, expected="a configuration among the sets, which it runs")
    # Sets in files are read before configurations take hours to run.
    known = {name: entry_of(folder.name(Path(name)), Path(name)) for name in sets if _is_file(name)}
    kept = 1 if pool is None else SETTINGS
    cells = Cells(comparison, out / CELLS, data_dir=data_dir, show_progress=show_progress, kept=kept)
    _check_rates([*known.values()], comparison)
    wanted_runs = [
        Wanted(name, jobs.short(source), wanted, out / RUNS / jobs.file_name(source))
        for name, rows in configurations.items()
        for source, wanted in rows
    ]
    if pool is not None:
        parallel.compute(
            list(known.values()), wanted_runs, cells, pool, out, data_dir=data_dir, show_progress=show_progress
        )
    entries, number = [], 0
    for name in sets:
        if name in known:
            entries.append(known[name])
        for source, wanted in configurations.get(name, []):
            run = wanted_runs[number].out
            number += 1
            if not folder.is_finished(run, wanted):
                progress(f"run {number} of {len(wanted_runs)}: {jobs.short(source)}")
                loop.run(wanted, run, data_dir=data_dir, show_progress=show_progress)
            entries.append(entry_of(jobs.short(source), run))
    entries = _told_apart(entries, sets)
    _check_rates(entries, comparison)
    table: dict[str, Any] = {"sets": [], "cells": [], "average": [], "teachers": [], "scores": []}
    table["epochs"] = {protocol.name: protocol.epochs for protocol in comparison.chosen_protocols}
    earlier = read_object(out / TABLE)
    groups = by_setting(entries)
    for members in groups:
        setting, rows = cells.setting(members[0]), cells.rows(members, named=len(groups) > 1)
        table["sets"] += [{**row, "run_of": runs_of.get(row["name"])} for _, row in rows]
        wanted_cells = cells.of_rows(rows, setting)
        labelled: dict[Teacher, None] = {}
        counting = counted(wanted_cells, len(wanted_cells), "comparison", unit=" cells", shown=show_progress)
        for place, (candidate, row, network, fitted) in enumerate(counting, 1):
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
    of_all = [_of_row(row) for row in table["cells"]]
    if len({cell.network for cell in of_all}) > 1:
        for (name, protocol), mean in cross_architecture(of_all).items():
            table["average"].append({"candidate": name, "protocol": protocol, "mean": mean})
    table["scores"] = _scores(table)
    table["cells"] = marked(table["cells"])
    table["runs"] = over_runs(table)
    for row in table["runs"]:
        mean, of_runs, of_networks = (
            100 * row[name] for name in ("mean", "deviation_of_runs", "deviation_of_networks")
        )
        spread = f"over {row['runs']} runs, deviation of runs {of_runs:.2f}, of networks {of_networks:.2f}"
        progress(f"{row['name']:24} {row['network']:24} {row['protocol']:9} {mean:.2f} % {spread}")
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


def repeated(rows: Sequence[tuple[str, Experiment]], runs: int) -> list[tuple[str, Experiment]]:
    """Return experiments so many times, each with its own seed and the next ones, and with names that say the seed.

    Args:
        rows: names and experiments.
        runs: how often each is run; once leaves the names as they are.
    """
    if runs == 1:
        return list(rows)
    return [
        (f"{name} seed={wanted.seed + number}", dataclasses.replace(wanted, seed=wanted.seed + number))
        for name, wanted in rows
        for number in range(runs)
    ]


def over_runs(table: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what the runs of a configuration give together, for each network and protocol.

    `mean` is the mean over runs of their cells' means, `deviation_of_runs` the standard deviation of these, and
    `deviation_of_networks` that of the networks of one run (the root of the mean variance). The first holds a part of
    the second: each run's mean is over few networks.
    """
    runs_of = {row["name"]: row.get("run_of") for row in table["sets"]}
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    same = ("data", "preprocess", "method", "images_per_class", "network", "protocol")
    for cell in table["cells"]:
        if name := runs_of.get(cell["candidate"]):
            groups.setdefault((name, *(cell[part] for part in same)), []).append(cell)
    together = []
    for (name, *parts), cells in groups.items():
        means = np.array([cell["mean"] for cell in cells])
        if len(means) > 1:
            row = {"name": name, **dict(zip(same, parts)), "runs": len(means), "mean": float(means.mean())}
            row["deviation_of_runs"] = float(means.std(ddof=1))
            row["deviation_of_networks"] = float(np.mean([cell["deviation"] ** 2 for cell in cells]) ** 0.5)
            row["candidates"] = [cell["candidate"] for cell in cells]
            together.append(row)
    return together


def _is_file(name: str) -> bool:
    """Return whether a name is that of a set's file or of a run's folder, and not of a configuration."""
    return Path(name).is_dir() or Path(name).suffix == ".npz"


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
