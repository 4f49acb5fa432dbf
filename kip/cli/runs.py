"""Commands that make runs, follow them and export from them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from kip.cli.options import DataDir, Executor, Json, Where
from kip.errors import ConfigError

if TYPE_CHECKING:
    from kip.experiment import Experiment
    from kip.train import Result


def distill(
    config: tyro.conf.Positional[str],
    *,
    out: Path | None = None,
    data_dir: DataDir = None,
    executor: Executor = "local",
    workers: int = 1,
    address: str | None = None,
    json: Json = False,
) -> dict[str, Any]:
    """Distil a data set: run any method to its end, and export, evaluate and draw what it learned.

    Running the same command again resumes from the last checkpoint. Every value of the configuration can be
    overridden: `kip distill CONFIG --help` lists them, as in

        kip distill digits_convnet
        kip distill cifar10_fc1_100 --data-dir DATA --method.steps 500 --seed 1 --out runs/short

    Args:
        config: A name that `kip configs` lists, FILE:ROW for a row of a table, or a path to a .py or .json file.
        out: The run's folder; default: runs/CONFIG.
        data_dir: Folder of NAME.npz files; default: $KIP_DATA_DIR. Without a file, tensorflow-datasets is asked.
        executor: Where kernel tiles are computed: this process, launchpad's processes, or ray's actors.
        workers: Worker processes, for launchpad and ray.
        address: Of a ray cluster that runs, or HOST:PORT that launchpad's server listens on; default: loopback.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip import experiment

    where = Where(executor, workers, address)
    return _run(experiment.load(config), out or _default_out(config), data_dir, where)


def label_solve(
    config: tyro.conf.Positional[str],
    *,
    out: Path | None = None,
    data_dir: DataDir = None,
    executor: Executor = "local",
    workers: int = 1,
    address: str | None = None,
    json: Json = False,
) -> dict[str, Any]:
    """Solve for the labels of fixed natural images in closed form, over the whole train set.

    A KIP configuration is taken for its data, preprocessing, kernel, ridge and number of images.

        kip label-solve cifar10_fc1_500_label_solve

    Args:
        config: A name that `kip configs` lists, FILE:ROW for a row of a table, or a path to a .py or .json file.
        out: The run's folder; default: runs/CONFIG, with -label-solve after a KIP configuration's name.
        data_dir: Folder of NAME.npz files; default: $KIP_DATA_DIR.
        executor: Where kernel tiles are computed: this process, launchpad's processes, or ray's actors.
        workers: Worker processes, for launchpad and ray.
        address: Of a ray cluster that runs, or HOST:PORT that launchpad's server listens on; default: loopback.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip import experiment

    solved, suffix = _label_solve(experiment.load(config))
    where = Where(executor, workers, address)
    return _run(solved, out or _default_out(config + suffix), data_dir, where)


def with_overrides(command: str, name: str, rest: list[str]) -> dict[str, Any]:
    """Run `kip distill CONFIG ...` or `kip label-solve CONFIG ...`, with an option for every value of CONFIG."""
    from kip import experiment, overrides

    loaded = experiment.load(name)
    function, suffix = distill, ""
    if command == "label-solve":
        function = label_solve
        loaded, suffix = _label_solve(loaded)
    description = (function.__doc__ or "").partition("\n\n")[0]
    given = overrides.parse(loaded, rest, prog=f"kip {command} {name}", description=description)
    where = Where(given.executor, given.workers, given.address)
    return _run(given.experiment, given.out or _default_out(name + suffix), given.data_dir, where)


def configs(*, json: Json = False) -> dict[str, Any]:
    """List the configurations that come with kip, with the published result that each reproduces.

    Args:
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip import experiment

    listed = {}
    for name in experiment.names():
        reference = experiment.load(name).reference
        listed[name] = str(reference) if reference else experiment.describe(name)
        print(f"{name:44} {listed[name]}")
    return {"configs": listed}


def status(run: tyro.conf.Positional[Path], *, json: Json = False) -> dict[str, Any]:
    """Tell how far a run is and what its workers do.

        kip status runs/digits_convnet

    Args:
        run: The run's folder.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip.server import service

    found = service.status(run)
    print(service.as_text(found))
    return found


def export(
    run: tyro.conf.Positional[Path],
    *,
    step: int | None = None,
    out: Path | None = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> dict[str, Any]:
    """Export a run's distilled set as NumPy, also of a run that goes on or was stopped.

    The file loads with numpy.load(FILE, allow_pickle=False); its arrays are images (pixel space, 1.0 is white),
    images_preprocessed, labels, class_index, image_statistics and metadata (a JSON string).

    Args:
        run: The run's folder.
        step: The checkpoint's step; default: the best on validation.
        out: The file; default: RUN/distilled.npz, or RUN/distilled_STEP.npz with --step.
        data_dir: Folder of NAME.npz files; default: $KIP_DATA_DIR.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip.train import export_run

    result = export_run(run, step=step, out=out, data_dir=data_dir)
    print(result["out"])
    return result


def _label_solve(loaded: Experiment) -> tuple[Experiment, str]:
    """The experiment with Label Solve as its method, and what tells its folder from the original's."""
    from kip import experiment

    solved = experiment.with_label_solve(loaded)
    return solved, "" if solved is loaded else "-label-solve"


def _default_out(config: str) -> Path:
    return Path("runs") / Path(config).name.removesuffix(".py").removesuffix(".json").replace(":", "-")


def _run(experiment: Experiment, out: Path, data_dir: Path | None, where: Where) -> dict[str, Any]:
    result = _train(experiment, out, data_dir, where)
    print(f"test accuracy        {100 * result.test_accuracy:.2f} %  (best on validation: step {result.exported_step})")
    networks = getattr(experiment.method, "test_networks", None)
    print(f"  {'at step 0     ' if networks else 'natural images'}     {100 * result.initial_test_accuracy:.2f} %")
    if networks or result.steps > 1:
        mean, spread = 100 * result.paper_test_accuracy, 100 * result.paper_test_spread
        over = f"fresh networks trained on it: {networks}" if networks else "checkpoints of lowest train loss"
        print(f"  paper's report     {mean:.2f} +- {spread:.2f} %  ({over})")
    if experiment.reference:
        print(f"  published          {experiment.reference}")
    print(f"validation accuracy  {100 * result.validation_accuracy:.2f} %")
    print(f"{result.steps} steps in {result.seconds:.0f} s; the set and pictures are in {result.out}")
    return result._asdict()


def _train(experiment: Experiment, out: Path, data_dir: Path | None, where: Where) -> Result:
    executor, workers, address = where
    if executor == "local":
        if workers != 1 or address is not None:
            raise ConfigError(
                "--workers and --address with --executor local",
                got=f"{workers} workers, address {address}",
                expected="neither",
                remedy="Add --executor launchpad or --executor ray; local uses every device of this process.",
            )
        from kip import train

        return train.run(experiment, out, data_dir=data_dir)
    if workers < (executor == "ray"):
        raise ConfigError("--workers", got=workers, expected="at least 1")
    if executor == "launchpad":
        from kip.server import launchpad
        from kip.workers.connect import parse_address

        listen = None if address is None else parse_address(address)
        print(f"kip: the processes' output goes to {out / 'logs'}; `kip status {out}` says more", file=sys.stderr)
        return launchpad.distill(experiment, out, data_dir=data_dir, workers=workers, listen=listen)
    from kip.server import ray

    return ray.distill(experiment, out, data_dir=data_dir, workers=workers, address=address)
