"""Commands that make runs, follow them and export from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from kip.cli.options import Config, Json, Run, RunOptions, check_workers, while_going_on
from kip.progress import inner_stage, say

if TYPE_CHECKING:
    from kip.experiment import Experiment
    from kip.runs.loop import Result


Options = Annotated[RunOptions, tyro.conf.arg(name="")]
WATCH_SECONDS = 2.0
"""Seconds between two looks of `kip status --watch`."""


def distill(config: Config, *, options: Options = RunOptions()) -> dict[str, Any]:  # noqa: B008 (frozen)
    """Distil a data set: run any method to its end, and export, evaluate and draw what it learned.

    Running the same command again resumes from the last checkpoint. Every value of the configuration can be
    overridden: `kip distill CONFIG --help` lists them, as in

        kip distill digits_convnet
        kip distill cifar10_fc1_100 --data-dir DATA --method.steps 500 --seed 1 --out runs/short
        kip distill "coresets:mnist_*_ipc10" --vary seed=0,1 --jobs 4 --out runs/coresets

    Args:
        config: A name that `kip configs` lists, FILE:ROW for a row of a table, or a path to a .py or .json file.
            FILE:PATTERN, with * and ?, runs all rows of a file that match, in a folder of --out each.
    """
    return with_overrides("distill", config, [], options)


def label_solve(config: Config, *, options: Options = RunOptions()) -> dict[str, Any]:  # noqa: B008 (frozen)
    """Solve for the labels of fixed natural images in closed form, over the whole train set.

    A KIP configuration is taken for its data, preprocessing, kernel, ridge and number of images.

        kip label-solve cifar10_fc1_500_label_solve

    Args:
        config: A name that `kip configs` lists, FILE:ROW for a row of a table, or a path to a .py or .json file.
    """
    return with_overrides("label-solve", config, [], options)


def with_overrides(
    command: str, name: str, arguments: Sequence[str], options: RunOptions | None = None
) -> dict[str, Any]:
    """Run `kip distill CONFIG ...` or `kip label-solve CONFIG ...`, with an option for every value of CONFIG.

    Args:
        command: which of the two.
        name: CONFIG.
        arguments: the words of the command line beside it.
        options: the options of the run, where they are known already.
    """
    from kip.kernels import permission

    with inner_stage("reading the configuration and its options", names=False):
        from kip import experiment
        from kip.cli import overrides
        from kip.cli.several import Wanted, check_one, run_several
        from kip.evaluate.comparison import varied

        function, suffix = (label_solve, "-label-solve") if command == "label-solve" else (distill, "")
        description = (function.__doc__ or "").partition("\n\n")[0]
        wanted: list[Wanted] = []
        with experiment.each_file_once():
            rows = experiment.matching(name)
            alone = overrides.options_alone(arguments, prog=f"kip {command} {name}") if len(rows) > 1 else None
            for row in rows:
                loaded, is_solved = experiment.load(row), False
                if command == "label-solve":
                    solved = experiment.with_label_solve(loaded)
                    is_solved, loaded = solved is not loaded, solved
                given = None
                if alone is None:
                    given = overrides.parse(loaded, arguments, prog=f"kip {command} {name}", description=description)
                options = options or (alone if given is None else given.options)
                assert options is not None  # one of the two has them
                title = row + (suffix if is_solved else "")
                combinations = varied(title, loaded if given is None else given.experiment, options.vary)
                wanted += [Wanted(row, name, _told(changed, loaded)) for name, changed in combinations]
    assert options is not None  # there is at least one row
    permission.permit(*options.stax)
    if len(wanted) == 1 and not options.vary and options.jobs == 1:
        check_one(options)
        return _run(wanted[0].experiment, options.out or _default_out(wanted[0].title), options)
    return run_several(wanted, options, options.out or _default_out(name.partition("*")[0].rstrip(":_?") + suffix))


def _told(changed: Experiment, loaded: Experiment) -> Experiment:
    """Return an experiment with overrides; what is published is of the configuration as it is."""
    if changed.identity() != {**loaded.identity(), "seed": changed.seed} or changed.method.steps != loaded.method.steps:
        return dataclasses.replace(changed, reference=None)
    return changed


def status(run: Run, *, watch: bool = False, json: Json = False) -> dict[str, Any]:
    """Tell how far a run is and what its workers do; of a comparison, which runs and cells go on.

        kip status runs/digits_convnet
        kip status runs/digits_convnet --watch
        kip status runs/comparison

    Args:
        run: The folder of a run, or of a comparison or several runs that --jobs or Ray computes.
        watch: Tell it again every two seconds while the run goes on.
        json: Print one JSON object with the results as the last line of stdout.
    """
    progress = _tell(run)
    if watch:
        for _ in while_going_on([run], WATCH_SECONDS):
            progress = _tell(run)
    return progress


def _tell(run: Path) -> dict[str, Any]:
    """Print how far a run is, or jobs are, and return it."""
    from kip.runs import folder, jobs
    from kip.server import service

    progress = None if (run / folder.CONFIG).is_file() else jobs.status(run)
    if progress is None:
        progress = service.status(run)
        print(service.as_text(progress), flush=True)
        return progress
    print(jobs.as_text(progress), flush=True)
    for place in (row.get("folder") for row in progress["going_on"]):
        if isinstance(place, str) and (Path(place) / folder.CONFIG).is_file():
            print(f"{place}: {service.as_text(service.status(Path(place))).partition(chr(10))[0]}", flush=True)
    return progress


def _default_out(config: str) -> Path:
    return Path("runs") / Path(config).name.removesuffix(".py").removesuffix(".json").replace(":", "-")


def _run(experiment: Experiment, out: Path, options: RunOptions) -> dict[str, Any]:
    from kip.runs import folder

    return tell(experiment, _train(experiment, out, folder.place_of_data(out, options.data_dir), options))


def tell(experiment: Experiment, result: Result) -> dict[str, Any]:
    """Print the result of a run, and return it as a dict."""
    from kip.pictures.appearance import heading_of
    from kip.runs import folder

    print(f"test accuracy        {100 * result.test_accuracy:.2f} %  (best on validation: step {result.exported_step})")
    networks = experiment.method.judge.drawn
    if result.initial_test_accuracy is not None:
        print(f"  natural images     {100 * result.initial_test_accuracy:.2f} %")
    averaged = networks or len(result.paper_steps)
    if averaged > 1:
        over = "fresh networks trained on it" if networks else "checkpoints of lowest train loss"
        mean, spread = 100 * result.paper_test_accuracy, 100 * result.paper_test_spread
        print(f"  mean of {averaged:<10} {mean:.2f} +- {spread:.2f} %  ({over})")
    if classes := [(score, c) for c, score in enumerate(result.class_test_accuracies) if score is not None]:
        (low, worst), (high, best) = min(classes), max(classes)
        names = folder.class_names(Path(result.out))
        of_worst, of_best = heading_of(worst, names), heading_of(best, names)
        print(f"  by class           {100 * low:.1f} % ({of_worst}) to {100 * high:.1f} % ({of_best})")
    if experiment.reference:
        print(f"  published          {experiment.reference}")
    print(f"validation accuracy  {100 * result.validation_accuracy:.2f} %")
    memory = "" if result.peak_memory_mib is None else f" and {result.peak_memory_mib} MiB"
    print(f"{result.steps} steps in {result.seconds:.0f} s{memory}; the set and pictures are in {result.out}")
    for warning in _warnings(experiment, result):
        say(f"kip: warning: {warning}")
    return result._asdict()


def _warnings(experiment: Experiment, result: Result) -> list[str]:
    """Return what a user should not overlook in a result."""
    warnings = []
    if result.initial_test_accuracy is not None and result.test_accuracy <= result.initial_test_accuracy:
        warnings.append(
            "the set is no better than the natural images that it started from. "
            "Try more steps, or another learning rate."
        )
    elif result.exported_step == 0 and result.steps > 1:
        warnings.append(
            "validation accuracy only fell from its start, so that the exported set is the first one. "
            "Lower the learning rate."
        )
    if result.steps > experiment.method.steps:
        warnings.append(
            f"the run had {result.steps} steps already, more than the {experiment.method.steps} that were asked for; "
            "none was taken back."
        )
    return warnings


def _train(experiment: Experiment, out: Path, data_dir: Path | None, options: RunOptions) -> Result:
    executor, workers, address, check_share = options.executor, options.workers, options.address, options.check_share
    from kip.runs.setup import check_functions, check_spreads
    from kip.storage.locks import sole_writer

    check_functions(experiment)
    if executor != "local":
        check_spreads(experiment, executor)
    check_workers(
        executor, workers, check_share, options.wait_for_workers, address=address, mixed_hardware=options.mixed_hardware
    )
    if executor == "local":
        from kip.runs import loop as train
        from kip.runs.loggers import loggers

        return train.run(experiment, out, data_dir=data_dir, callbacks=loggers(options.log))
    with sole_writer(out):
        pass  # the process that runs the loop takes the lock; here it keeps the files of a run that goes on from harm
    from kip.server.member import Settings
    from kip.workers.connect import parse_address

    settings = Settings(
        check_share=check_share, mixed_hardware=options.mixed_hardware, patience=options.wait_for_workers
    )
    if executor in ("zmq", "launchpad"):
        if executor == "zmq":
            from kip.server.zmq import distill as distill_with
        else:
            from kip.server.launchpad import distill as distill_with
        listen = None if address is None else parse_address(address)
        say(f"kip: the workers' output goes to {out / 'logs'}; `kip status {out}` says more")
        return distill_with(
            experiment, out, data_dir=data_dir, workers=workers, listen=listen, settings=settings, log=options.log
        )
    from kip.server import ray

    return ray.distill(
        experiment, out, data_dir=data_dir, workers=workers, address=address, settings=settings, log=options.log
    )
