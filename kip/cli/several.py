"""Several runs of one command: the rows of a table, or the values of --vary; and one run with several processes."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kip.cli.options import RunOptions, save_json
from kip.errors import ConfigError
from kip.experiment import Experiment

RESULTS = "runs.json"


class Wanted(NamedTuple):
    """A run of a command."""

    config: str
    """The name or file of its configuration."""
    title: str
    """The configuration's name, and what was changed in it."""
    experiment: Experiment
    """The experiment."""


def check_one(options: RunOptions) -> None:
    """Refuse options of several runs where there is one.

    Raises:
        ConfigError: if there is such an option.
    """
    if options.device_share != 1:
        raise ConfigError("--device-share of one run", got=options.device_share, expected="--jobs, or several runs")


def run_several(wanted: Sequence[Wanted], options: RunOptions, out: Path) -> dict[str, Any]:
    """Run experiments to their ends, print a table of their results, and return these.

    Args:
        wanted: the runs. One alone is run in `out`, beside processes that make a part of its preparation.
        options: the options of the command.
        out: the folder of the runs' folders.

    Raises:
        ConfigError: if an option is given that several runs do not take.
        KipError: the first that a run raised.
    """
    from kip.cli import pools
    from kip.cli.runs import tell
    from kip.runs import folder, jobs, loop
    from kip.runs.setup import check_functions
    from kip.storage.json_files import read_object
    from kip.storage.locks import sole_writer

    executor = options.executor
    if executor not in ("local", "ray"):
        raise ConfigError("--executor of several runs", got=executor, expected="local with --jobs, or ray")
    _check_unused(options)
    for run in wanted:
        check_functions(run.experiment)
    is_one = len(wanted) == 1 and not options.vary
    places = [out if is_one else out / jobs.file_name(run.title) for run in wanted]
    if len(set(places)) < len(places):
        raise ConfigError("runs", got="two of one name", expected="rows and values that differ")
    data_dirs = [folder.place_of_data(place, options.data_dir) for place in places]
    tasks = list(zip(wanted, places, data_dirs))
    with contextlib.ExitStack() as stack:
        if not is_one:  # the process that runs the loop holds the run's lock
            stack.enter_context(sole_writer(out))
        opened = pools.opened(
            out,
            jobs=options.jobs,
            executor=executor,
            address=options.address,
            device_share=options.device_share,
        )
        pool = stack.enter_context(opened)
        left = [task for task in tasks if not folder.is_finished(task[1], task[0].experiment)]
        if pool is None:
            for run, place, data_dir in left:
                loop.run(run.experiment, place, data_dir=data_dir)
        else:
            made = [
                jobs.job_of_run(run.config, jobs.short(run.title), run.experiment, place, data_dir)
                for run, place, data_dir in left
            ]
            jobs.compute(made, pool, out, show_progress=True)
    results = [loop.Result(**(read_object(place / folder.RESULT) or {})) for place in places]
    if is_one:
        return tell(wanted[0].experiment, results[0])
    width = max(len(run.title) for run in wanted)
    print(f"{'':{width}}    test  validation   steps   seconds")
    for run, result in zip(wanted, results):
        test, validation = 100 * result.test_accuracy, 100 * result.validation_accuracy
        print(f"{run.title:{width}}  {test:6.2f}  {validation:10.2f}  {result.steps:6}  {result.seconds:8.0f}")
    summary = {"out": str(out), "runs": [{"name": run.title, **row._asdict()} for run, row in zip(wanted, results)]}
    save_json(out / RESULTS, summary)
    print(f"the runs are in {out}")
    return summary


def _check_unused(options: RunOptions) -> None:
    """Refuse options of one run's workers and loggers, which several runs would ignore."""
    names = ("workers", "check_share", "mixed_hardware", "wait_for_workers", "log")
    unused = [name for name in names if getattr(options, name) != getattr(RunOptions, name)]
    if unused:
        raise ConfigError(
            "options of one run",
            got=", ".join(f"--{name.replace('_', '-')}" for name in unused),
            expected="none of them with --jobs or several runs",
        )
