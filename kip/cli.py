"""The command line: thin. Every command is one function that calls the library and returns its results as a dict.

Heavy imports happen inside the commands, so that `kip --help` answers at once.
"""

from __future__ import annotations

import json as json_module
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from kip.errors import ConfigError, KipError

if TYPE_CHECKING:
    from kip.experiment import Experiment

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""
CLOSED_PIPE = 141
"""Exit status where the reader of stdout has gone, as shells have it."""

DataDir = Path | None
Json = bool


def distill(
    config: tyro.conf.Positional[str], *, out: Path | None = None, data_dir: DataDir = None, json: Json = False
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
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip import experiment

    return _run(experiment.load(config), out or _default_out(config), data_dir)


def label_solve(
    config: tyro.conf.Positional[str], *, out: Path | None = None, data_dir: DataDir = None, json: Json = False
) -> dict[str, Any]:
    """Solve for the labels of fixed natural images in closed form, over the whole train set.

    A KIP configuration is taken for its data, preprocessing, kernel, ridge and number of images.

        kip label-solve cifar10_fc1_500_label_solve

    Args:
        config: A name that `kip configs` lists, FILE:ROW for a row of a table, or a path to a .py or .json file.
        out: The run's folder; default: runs/CONFIG, with -label-solve after a KIP configuration's name.
        data_dir: Folder of NAME.npz files; default: $KIP_DATA_DIR.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip import experiment

    solved, suffix = _label_solve(experiment.load(config))
    return _run(solved, out or _default_out(config + suffix), data_dir)


def evaluate(
    distilled: tyro.conf.Positional[Path],
    *,
    kernel: tuple[str, ...] = (),
    get: Literal["ntk", "nngp"] = "ntk",
    data_dir: DataDir = None,
    json: Json = False,
) -> dict[str, Any]:
    """Evaluate a distilled set: KRR accuracy on its data set, under the kernel it was made with or any other.

        kip evaluate runs/digits_convnet/distilled.npz --kernel FC1 ConvVec3 RBF

    Args:
        distilled: The set, an .npz file.
        kernel: FC1, ConvVec3, ConvNet, ConvNet3, Myrtle5, RBF, Laplace, ...; default: the set's own.
        get: For named networks: the neural tangent kernel, or the Gaussian process kernel.
        data_dir: Folder of NAME.npz files; default: $KIP_DATA_DIR.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip import export
    from kip.blocks import KernelBlocks
    from kip.evaluate import evaluate_set
    from kip.kernels.architecture import kernel_named

    loaded = export.load(distilled)
    kernels = [kernel_named(name, get) for name in kernel] or None
    with KernelBlocks(loaded.experiment.blocks) as blocks:
        results = evaluate_set(loaded, blocks, kernels=kernels, data_dir=data_dir)
    for result in results:
        test, validation = 100 * result.test_accuracy, 100 * result.validation_accuracy
        spread = "" if result.test_spread is None else f" +- {100 * result.test_spread:.2f}"
        print(f"{result.kernel:12} test {test:.2f}{spread} %  validation {validation:.2f} %")
    mean = {name: sum(getattr(r, name) for r in results) / len(results) for name in results[0]._fields[1:3]}
    return {**mean, "kernels": [result._asdict() for result in results]}


def show(
    distilled: tyro.conf.Positional[Path], *, prototypes: bool = False, out: Path | None = None, json: Json = False
) -> dict[str, Any]:
    """Draw a distilled set as a picture: its images by class, and its labels.

    Args:
        distilled: The set, an .npz file.
        prototypes: Draw one image a class instead, the mean of all images with their labels for it as weights.
        out: The picture, a .png file; default: beside the set, with its name.
        json: Print one JSON object with the results as the last line of stdout.
    """
    import numpy as np

    from kip import export, report

    loaded = export.load(distilled)
    out = out or distilled.with_suffix(".png")
    if out.suffix.lower() != ".png":
        raise ConfigError("--out of the picture", got=out, expected="a name ending in .png")
    experiment = loaded.experiment
    title = f"{experiment.data.name}, {experiment.method.label}, step {loaded.metadata['step']}"
    if prototypes:
        images = report.prototypes(loaded.images, loaded.labels)
        labels, class_index = np.eye(len(images)), np.arange(len(images))
    else:
        images, labels = loaded.images, loaded.labels
        class_index = report.shown_class(labels, loaded.class_index)
    report.save_images(out, images, labels, class_index, title=title)
    print(out)
    return {"out": str(out), "images": len(images)}


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


COMMANDS: dict[str, Callable[..., dict[str, Any]]] = {
    "distill": distill,
    "label-solve": label_solve,
    "evaluate": evaluate,
    "show": show,
    "export": export,
    "configs": configs,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0, 2 (a user's error), 130 (Ctrl-C), 141 (closed pipe)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(format="kip: %(levelname)s: %(message)s", level=logging.WARNING, stream=sys.stderr)
    try:
        results = _dispatch(arguments)
        if "--json" in arguments:
            print(json_module.dumps(results))
        sys.stdout.flush()
    except KipError as error:
        print(f"kip: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("kip: interrupted; the same command resumes from the last checkpoint", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has gone, as in `kip configs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return CLOSED_PIPE
    return 0


def _dispatch(arguments: list[str]) -> dict[str, Any]:
    takes_overrides = arguments[:1] in (["distill"], ["label-solve"])
    if takes_overrides and len(arguments) > 1 and not arguments[1].startswith("-"):
        return _with_overrides(arguments[0], arguments[1], arguments[2:])
    app = tyro.extras.SubcommandApp()
    for name, command in COMMANDS.items():
        app.command(name=name)(command)
    return app.cli(
        prog="kip",
        description="Dataset distillation with infinitely wide networks. `kip COMMAND --help` explains each command.",
        args=arguments or ["--help"],
    )


def _with_overrides(command: str, name: str, rest: list[str]) -> dict[str, Any]:
    """Run `kip distill CONFIG ...` or `kip label-solve CONFIG ...`, with an option for every value of CONFIG."""
    from kip import experiment, overrides

    loaded = experiment.load(name)
    suffix = ""
    if command == "label-solve":
        loaded, suffix = _label_solve(loaded)
    description = (COMMANDS[command].__doc__ or "").partition("\n\n")[0]
    given = overrides.parse(loaded, rest, prog=f"kip {command} {name}", description=description)
    return _run(given.experiment, given.out or _default_out(name + suffix), given.data_dir)


def _label_solve(loaded: Experiment) -> tuple[Experiment, str]:
    """The experiment with Label Solve as its method, and what tells its folder from the original's."""
    from kip import experiment

    solved = experiment.with_label_solve(loaded)
    return solved, "" if solved is loaded else "-label-solve"


def _default_out(config: str) -> Path:
    return Path("runs") / Path(config).name.removesuffix(".py").removesuffix(".json").replace(":", "-")


def _run(experiment: Experiment, out: Path, data_dir: Path | None) -> dict[str, Any]:
    from kip import train

    result = train.run(experiment, out, data_dir=data_dir)
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


if __name__ == "__main__":
    sys.exit(main())
