"""The command line: thin. Every command is one function that calls the library and returns its results as a dict.

Heavy imports happen inside the commands, so that `kip --help` answers at once.
"""

from __future__ import annotations

import functools
import json as json_module
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import tyro

from kip.errors import ConfigError, KipError
from kip.files import atomic_write

if TYPE_CHECKING:
    from kip.experiment import Experiment
    from kip.train import Result

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""
CLOSED_PIPE = 141
"""Exit status where the reader of stdout has gone, as shells have it."""

DataDir = Path | None
Json = bool
Executor = Literal["local", "launchpad", "ray"]


class Where(NamedTuple):
    """Where kernel tiles are computed: the options of `kip distill` and `kip label-solve`."""

    executor: Executor = "local"
    workers: int = 1
    address: str | None = None


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


def transfer(
    distilled: tyro.conf.Positional[Path],
    *,
    baseline: tuple[Literal["natural", "full"], ...] = (),
    checkpoints: tuple[int, ...] = (),
    network: str = "ConvNet",
    width: int | None = None,
    norm: Literal["none", "layer", "instance", "batch"] | None = None,
    parameterization: Literal["standard", "ntk"] = "standard",
    loss: Literal["mse", "xent"] | None = None,
    factors: tuple[float, ...] | None = None,
    l2: tuple[float, ...] | None = None,
    steps: int | None = None,
    batch: int | None = None,
    evaluations: int | None = None,
    search_seeds: int | None = None,
    seeds: int | None = None,
    validation: int | None = None,
    vectorise: int | None = None,
    seed: int | None = None,
    out: Path | None = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> dict[str, Any]:
    """Train finite networks on a distilled set, by the paper's scheme, and natural images by the same.

    The learning rate, in units of the critical one of the empirical NTK, and the L2 strength are chosen on validation,
    and so is when to stop; fresh networks are then trained and tested. The paper's sizes want an accelerator; on two
    CPU cores, minutes:

        kip transfer runs/mnist_fc1_100/distilled.npz --width 32 --steps 150 --factors 1 2 4 --l2 0 --baseline natural

    Args:
        distilled: The set, an .npz file; or a run's folder, with --checkpoints.
        baseline: Also train on natural images of the same number (natural), on the whole train split (full), or both.
        checkpoints: Of a run: the steps whose sets to train on; the best on validation is reported as the result.
        network: FC1, ConvVec3, ConvNet, ConvNet-D3, Myrtle5, LeNet, AlexNet, VGG11, ResNet10, ResNet18, MobileNet, ...
        width: Channels of the first layer; default: the network's own (ConvNet: 1024).
        norm: Normalisation; default: the network's own (ConvNet: none).
        parameterization: Of the network.
        loss: Squared error (default) on the set's labels, or cross-entropy with their argmax.
        factors: Learning rates in units of the critical one; default: 0.5 1 2 4.
        l2: L2 strengths; default: 0 1e-7 1e-5 1e-3 1e-1.
        steps: Updates; default: 5000.
        batch: Images of an update; default: 100.
        evaluations: Validations of each training; default: 20.
        search_seeds: Networks that judge each point of the grid; default: 1.
        seeds: Networks that the chosen point trains; default: 5.
        validation: Validation images that are looked at; default: all.
        vectorise: Networks trained at once; default: one on a CPU, else as many as the memory takes.
        seed: Of initial parameters, batches and natural images; default: 0.
        out: Write the results to this JSON file; `kip report` shows those that lie in a run's folder as transfer*.json.
        data_dir: Folder of NAME.npz files; default: $KIP_DATA_DIR.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip.evaluate import runs
    from kip.evaluate.transfer import Transfer, transfer_set
    from kip.finite import Network

    options = {
        "loss": loss, "factors": factors, "l2": l2, "steps": steps, "batch": batch, "evaluations": evaluations,
        "search_seeds": search_seeds, "seeds": seeds, "validation": validation, "vectorise": vectorise, "seed": seed,
    }  # fmt: skip
    given = {name: option for name, option in options.items() if option is not None}
    config = Transfer(Network(network, width, norm, parameterization), **given)
    progress = functools.partial(print, file=sys.stderr, flush=True)
    sets = runs.sets(distilled, checkpoints, data_dir)
    results = [transfer_set(one, config, data_dir=data_dir, progress=progress) for one in sets]
    best = max(results, key=lambda result: result.validation_accuracy)
    others = [transfer_set(sets[0], config, baseline=b, data_dir=data_dir, progress=progress) for b in baseline]
    for result in [*results, *others]:
        test, spread = 100 * result.test_accuracy, 100 * result.test_spread
        step = f" step {result.checkpoint}" if result.trained_on == "distilled" else ""
        print(f"{result.trained_on + step:24} {result.images:6} images  test {test:.2f} +- {spread:.2f} %")
    listed = [result.to_dict() for result in [*results, *others]]
    summary = {"test_accuracy": best.test_accuracy, "test_spread": best.test_spread, "checkpoint": best.checkpoint}
    found = {**summary, "validation_accuracy": best.validation_accuracy, "results": listed}
    _save_json(out, found)
    return found


def protocols(
    sets: tyro.conf.Positional[tuple[Path, ...]],
    *,
    protocol: tuple[str, ...] = ("HL",),
    network: tuple[str, ...] = ("ConvNet-D3",),
    width: int | None = None,
    baseline: tuple[Literal["random", "k-centers"], ...] = (),
    epochs: int | None = None,
    seeds: int = 5,
    teacher: str = "ConvNet-D3",
    teacher_width: int | None = None,
    teacher_steps: int = 5000,
    seed: int = 0,
    out: Path | None = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> dict[str, Any]:
    """Judge distilled sets under named protocols: a table of sets x networks x protocols.

    HL trains on hard labels, SL on a teacher's fixed soft labels, SL+KD on the teacher's labels of every augmented
    view, DC-BENCH as that benchmark does, OWN on the set's own labels. All sets must be of one data set.

        kip protocols runs/mnist_fc1_100/distilled.npz --protocol HL SL SL+KD --baseline random k-centers

    Args:
        sets: The sets, .npz files, or runs' folders.
        protocol: HL, SL, SL+KD, DC-BENCH, OWN.
        network: The students; with several, their average is given as well.
        width: Channels of the students' first layer; default: each network's own.
        baseline: Natural images of the same number: a class-balanced draw, or greedy K-centers.
        epochs: Passes over the set, instead of the protocol's.
        seeds: Students of each cell.
        teacher: The teacher's network, trained on the whole train split, for soft labels.
        teacher_width: Channels of its first layer.
        teacher_steps: Its updates, in batches of 100.
        seed: Of initial parameters, batches, augmentations and draws.
        out: Write the results to this JSON file; `kip report` shows those that are in the run as protocols*.json.
        data_dir: Folder of NAME.npz files; default: $KIP_DATA_DIR.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip.evaluate.protocol_run import Judgement, judge
    from kip.finite import Network

    judgement = Judgement(
        protocols=protocol,
        networks=tuple(Network(name, width) for name in network),
        baselines=baseline,
        epochs=epochs,
        seeds=seeds,
        teacher=Network(teacher, teacher_width),
        teacher_steps=teacher_steps,
        seed=seed,
    )
    found = judge(sets, judgement, data_dir=data_dir, progress=functools.partial(print, flush=True))
    _save_json(out, found)
    return found


def analyze(
    distilled: tyro.conf.Positional[Path],
    *,
    kernel: str | None = None,
    get: Literal["ntk", "nngp"] = "ntk",
    checkpoints: tuple[int, ...] = (),
    targets: int | None = None,
    repeats: int = 20,
    out: Path | None = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> dict[str, Any]:
    """Measure a distilled set: dimension, spectrum, robustness to subsampling, nearest natural images, labels.

    The same is measured for the natural images that it started from, where the set is given as a run's folder that has
    its first checkpoint; else for a class-balanced draw. Kernels are computed in float64.

        kip analyze runs/digits_convnet --kernel FC1 --checkpoints 0 10 20

    Args:
        distilled: The set, an .npz file; or a run's folder.
        kernel: Whose features and spectrum are looked at: FC1, ConvNet, RBF, ...; default: the set's own.
        get: For named networks: the neural tangent kernel, or the Gaussian process kernel.
        checkpoints: Of a run: steps whose dimensions are measured as well.
        targets: Test images that bands and subsets are scored on; default: all.
        repeats: Random subsets of each size.
        out: Write the results to this JSON file; `kip report` shows RUN/analysis.json.
        data_dir: Folder of NAME.npz files; default: $KIP_DATA_DIR.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip.blocks import Blocks, KernelBlocks
    from kip.evaluate.analysis import analyze as measure
    from kip.kernels.architecture import kernel_named

    with KernelBlocks(Blocks(dtype="float64")) as blocks:
        found = measure(
            distilled,
            blocks,
            kernel=None if kernel is None else kernel_named(kernel, get),
            checkpoints=checkpoints,
            targets=targets,
            repeats=repeats,
            data_dir=data_dir,
        )
    print(f"{'':22}{'distilled':>12}{'natural':>12}    ({found['natural_images']}; kernel {found['kernel']})")
    pair = [found["distilled"], found["natural"]]
    print(f"{'test accuracy':22}" + "".join(f"{100 * one['accuracy']:10.2f} %" for one in pair))
    for name in pair[0]["dimensions"]:
        print(
            f"{name.replace('_', ' ') + ' dimension':22}" + "".join(f"{one['dimensions'][name]:12.1f}" for one in pair)
        )
    for index, band in enumerate(pair[0]["bands"]):
        what = f"eigenvalues {band['first'] + 1}-{band['last']}"
        print(f"{what:22}" + "".join(f"{100 * one['bands'][index]['accuracy']:10.2f} %" for one in pair))
    for fraction in pair[0]["subsampled"]:
        what = f"{100 * float(fraction):.0f} % of the images"
        print(f"{what:22}" + "".join(f"{100 * one['subsampled'][fraction]:10.2f} %" for one in pair))
    _save_json(out, found)
    return found


def natural(
    data: tyro.conf.Positional[str],
    *,
    kernel: str = "ConvNet",
    get: Literal["ntk", "nngp"] = "ntk",
    per_class: tuple[int, ...] = (1, 2, 4),
    subsets: int = 20,
    targets: int | None = None,
    preprocess: Literal["none", "standardize", "zca", "zca_notebook", "zca_frepo"] = "standardize",
    regularization: float = 0.1,
    ridge: float = 1e-6,
    seed: int = 0,
    data_dir: DataDir = None,
    json: Json = False,
) -> dict[str, Any]:
    """Score random natural images as support sets: what any distilled set of their number has to beat.

        kip natural cifar10 --kernel ConvNet --per-class 1 2 4 --subsets 5 --targets 1000

    Args:
        data: The data set: digits, mnist, cifar10, ...
        kernel: FC1, ConvVec3, ConvNet, ConvNet3, Myrtle5, RBF, Laplace, ...
        get: For named networks: the neural tangent kernel, or the Gaussian process kernel.
        per_class: Sizes of the subsets, images a class.
        subsets: Random subsets of each size; a draw's smaller ones are parts of its largest.
        targets: Test images to score on, class-balanced; default: all.
        preprocess: What is done to pixels before a kernel sees them.
        regularization: ZCA only: added to every eigenvalue of the covariance, in units of their mean.
        ridge: Added to the kernel's diagonal, in units of its mean.
        seed: Of the draws.
        data_dir: Folder of NAME.npz files; default: $KIP_DATA_DIR.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from tqdm import tqdm

    from kip import data as sources
    from kip import krr
    from kip import preprocess as preprocessing
    from kip.blocks import Blocks, KernelBlocks
    from kip.evaluate.natural_subsets import natural_subsets
    from kip.kernels.architecture import kernel_named

    loaded = sources.load(sources.Data(data), data_dir)
    transform = preprocessing.fit(preprocessing.Preprocess(preprocess, regularization), loaded.train.images)
    with KernelBlocks(Blocks()) as blocks:
        found = natural_subsets(
            loaded,
            transform.apply,
            blocks,
            kernel_named(kernel, get),
            krr.Ridge(ridge),
            per_class=per_class,
            subsets=subsets,
            targets=targets,
            seed=seed,
            progress=lambda numbers: tqdm(numbers, "subsets", file=sys.stderr),
        )
    for each in found:
        print(f"{each.per_class:5} a class  test {100 * each.mean:.2f} +- {100 * each.std:.2f} %")
    return {"subsets": [{**each._asdict(), "mean": each.mean, "std": each.std} for each in found]}


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


def report(run: tyro.conf.Positional[Path], *, out: Path | None = None, json: Json = False) -> dict[str, Any]:
    """Write a run's report: one HTML page that needs no network and no other file, and fits a phone.

    It shows what lies in the run's folder: scores, curves, images before and after, labels, and the results that
    `kip transfer`, `kip protocols` and `kip analyze` wrote there with --out RUN/transfer.json, protocols.json and
    analysis.json.

    Args:
        run: The run's folder.
        out: The page; default: RUN/report.html.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip import page

    path = page.write(run, out)
    print(path)
    return {"out": str(path), "bytes": path.stat().st_size}


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


def bench(
    what: tyro.conf.Positional[Literal["kernel", "growth"]],
    *,
    kernels: tuple[str, ...] = ("ConvNet", "ConvNet3", "ConvVec3", "Myrtle5", "FC1"),
    side: int = 32,
    channels: int = 3,
    blocks: tuple[int, ...] = (4, 16),
    repeats: int = 10,
    out: Path = Path("growth.png"),
    json: Json = False,
) -> dict[str, Any]:
    """Measure the kernel engine: against neural-tangents in this process, or how its cost grows.

        kip bench kernel --kernels ConvNet FC1 --side 32 --blocks 4 16
        kip bench growth --out growth.png

    Args:
        what: `kernel` prints a table beside neural-tangents; `growth` draws time against image side, depth and block.
        kernels: For `kernel`: names such as ConvNet, ConvVec3, Myrtle5, FC1.
        side: For `kernel`: pixels on each side of an image.
        channels: For `kernel`: 1 or 3.
        blocks: For `kernel`: images on each side of a block.
        repeats: Runs of each program at most, of which the best counts; slow ones stop after ten seconds.
        out: For `growth`: the picture.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip import bench

    if what == "growth":
        found = bench.growth(repeats)
        bench.draw_growth(found, out)
        print(f"the picture is {out}")
        return {
            "out": out,
            **{name: [[x, cost._asdict()] for x, cost in part] for name, part in found._asdict().items()},
        }
    from tqdm import tqdm

    compared = bench.compare(kernels, (side, side, channels), blocks, repeats)
    rows = list(tqdm(compared, "kernels", len(kernels) * len(blocks), file=sys.stderr))
    print(bench.table(rows))
    print(
        "ratio: neural-tangents' time through kip's. of peak: the time that the forward's arithmetic would take alone."
    )
    nested = ("ours", "neural_tangents")
    return {"rows": [row._asdict() | {name: getattr(row, name)._asdict() for name in nested} for row in rows]}


def worker(
    address: tyro.conf.Positional[str],
    *,
    key_file: Path | None = None,
    data_dir: DataDir = None,
    stax: tuple[str, ...] = (),
    json: Json = False,
) -> dict[str, Any]:
    """Compute kernel tiles for a run of --executor launchpad, until it ends; workers may join and leave at any time.

        kip worker 127.0.0.1:7710 --key-file runs/big/workers.key

    Args:
        address: HOST:PORT that the run's --address names.
        key_file: The run's workers.key, copied to this machine; default: the key in $KIP_WORKERS_KEY.
        data_dir: Folder of NAME.npz files; default: $KIP_DATA_DIR. Without the data set, its images are sent.
        stax: The functions of Stax kernels that may be loaded, as the run's configuration names them.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip.workers import connect
    from kip.workers.worker import Worker

    host = connect.parse_address(address)
    served = connect.serve(Worker(data_dir=data_dir, stax=stax), host, connect.read_key(key_file))
    return {"messages": served}


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


COMMANDS: dict[str, Callable[..., dict[str, Any]]] = {
    "distill": distill,
    "label-solve": label_solve,
    "evaluate": evaluate,
    "transfer": transfer,
    "protocols": protocols,
    "analyze": analyze,
    "natural": natural,
    "show": show,
    "export": export,
    "report": report,
    "configs": configs,
    "bench": bench,
    "worker": worker,
    "status": status,
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
    where = Where(given.executor, given.workers, given.address)
    return _run(given.experiment, given.out or _default_out(name + suffix), given.data_dir, where)


def _label_solve(loaded: Experiment) -> tuple[Experiment, str]:
    """The experiment with Label Solve as its method, and what tells its folder from the original's."""
    from kip import experiment

    solved = experiment.with_label_solve(loaded)
    return solved, "" if solved is loaded else "-label-solve"


def _save_json(out: Path | None, found: dict[str, Any]) -> None:
    if out is not None:
        atomic_write(out, lambda file: file.write(json_module.dumps(found, indent=1).encode()))


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


if __name__ == "__main__":
    sys.exit(main())
