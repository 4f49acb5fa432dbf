"""Runs, teachers and cells of a comparison as jobs of several processes, before its table is made.

The jobs leave in the comparison's folder, and in the cache, what one process alone would leave there. The table is then
made by one process, which finds everything: it has the same bits.

A cell is begun as soon as its set is there and its teachers have learned; a run that ends early does not wait for the
others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from kip.evaluate.cells import Candidate
from kip.evaluate.setting import Shared, Teacher, known_cell, setting_of
from kip.evaluate.table import Cells, Entry, entry_of
from kip.experiment import Experiment
from kip.networks import Network
from kip.runs import folder, jobs
from kip.runs.jobs import Job, Pool
from kip.training.protocols import Protocol


class Wanted(NamedTuple):
    """A run that a comparison needs."""

    source: str
    """The name or file of its configuration."""
    name: str
    """The name in the table."""
    experiment: Experiment
    """The experiment."""
    out: Path
    """The run's folder."""


def compute(
    sets: Sequence[Entry],
    runs: Sequence[Wanted],
    cells: Cells,
    pool: Pool,
    out: Path,
    *,
    data_dir: Path | None,
    show_progress: bool,
) -> None:
    """Compute what a comparison lacks.

    Args:
        sets: the sets that are there.
        runs: the runs that it needs.
        cells: its cells.
        pool: who computes.
        out: the comparison's folder.
        data_dir: where `NAME.npz` is, if not in $KIP_DATA_DIR.
        show_progress: whether a bar is shown on stderr.

    Raises:
        KipError: whatever a run or a training raises, after all others are done.
    """
    wanted = {str(run.out): run for run in runs}
    ended = [run for run in runs if folder.is_finished(run.out, run.experiment)]
    # Processes that are free wait for cells rather than help with a run: its experts may take hours.
    missing = [
        jobs.job_of_run(run.source, run.name, run.experiment, run.out, data_dir)._replace(helper=None)
        for run in runs
        if run not in ended
    ]
    entries = [*sets, *(entry_of(run.name, run.out) for run in ended)]

    def then(job: Job) -> Iterator[Job]:
        if job.kind == "run":
            yield from _of_entry(entry_of(job.name, wanted[job.key].out), cells)

    first = [*missing, *(job for entry in entries for job in _of_entry(entry, cells))]
    jobs.compute(first, pool, out, then=then, show_progress=show_progress)


def train_cell(shared: Shared, candidate: Candidate, network: Network, protocol: Protocol) -> None:
    """Train a cell and keep it."""
    setting_of(shared).cell(candidate, network, protocol)


def train_teacher(shared: Shared, teacher: Teacher) -> None:
    """Train a teacher and keep it."""
    setting_of(shared).labeller(teacher)


def _of_entry(entry: Entry, cells: Cells) -> Iterator[Job]:
    """Yield the jobs of the cells of a set and its baselines that are not known, teachers first."""
    setting = cells.setting(entry)
    for candidate, _, network, protocol in cells.of_rows(cells.rows([entry], named=False), setting):
        place = setting.place_of(candidate, network, protocol)
        if place is None or known_cell(place) is not None:
            continue
        keys = []
        for teacher in setting.teachers_of(candidate, protocol):
            keys.append(f"{setting.shared} {teacher}")
            yield Job("teacher", teacher.label, keys[-1], train_teacher, (setting.shared, teacher))
        name = f"{candidate.name}, {network.label}, {protocol.label}"
        yield Job("cell", name, str(place), train_cell, (setting.shared, candidate, network, protocol), tuple(keys))
