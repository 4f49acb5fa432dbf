"""Commands that judge distilled sets, and what they are compared with."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from kip.cli.options import (
    Address,
    DataDir,
    Json,
    Out,
    Set,
    Sets,
    Stax,
    check_out,
    save_json,
)
from kip.errors import ConfigError
from kip.evaluate.comparison import Comparison
from kip.evaluate.dcs import Correlation
from kip.evaluate.pretraining import Pretraining
from kip.evaluate.transfer import Baseline, Transfer
from kip.krr import Ridge
from kip.networks import Network
from kip.progress import counted, say

Flat = tyro.conf.arg(name="")
"""The fields of a configuration are options of the command itself."""


def evaluate(
    distilled: Set,
    others: Sets = (),
    *,
    kernel: tuple[str, ...] = (),
    get: Literal["ntk", "nngp"] = "ntk",
    features: tuple[Network, ...] = (),
    networks_per_draw: int = 8,
    ridge: float | None = None,
    out: Out = None,
    data_dir: DataDir = None,
    stax: Stax = (),
    json: Json = False,
) -> dict[str, Any]:
    """Evaluate distilled sets: KRR accuracy on their data sets, under the kernels they were made with or any others.

        kip evaluate runs/digits_convnet/distilled.npz --kernel FC1 ConvVec3 RBF
        kip evaluate rfad.npz --features "ConvNet-D3 width=128 norm=none" --ridge 5e-3

    Several sets give a table of sets x kernels: how well each set, learned under one kernel, serves under the others.

    Args:
        distilled: The set: an .npz file, a run's folder, or a name that `kip sets` lists.
        others: More sets to evaluate.
        kernel: The kernels: FC1, ConvVec3, ConvNet, ConvNet3, Myrtle5, RBF, Laplace, ... The default is each set's own.
        get: The kernel of a named network that is computed: the neural tangent kernel, or the Gaussian process kernel.
        features: Networks whose features, at random initial values, give further kernels, as RFAD judges its sets. The
            result is over five draws of networks.
        networks_per_draw: The number of networks of one kind that give the features of one draw.
        ridge: The regulariser of --kernel and --features, relative to the mean of the kernel matrix's diagonal. The
            default is a set's own for kernels, if it has one, or 1e-6, and 5e-3 for features.
        out: Write the results to this JSON file; `kip report` shows those that are in the run as evaluation*.json.
        data_dir: The folder of NAME.npz files. The default is where the run had them, or $KIP_DATA_DIR.
        stax: The functions of Stax and Features kernels that the set may load. Loading one runs the file that it is in.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip.blocks import KernelBlocks
    from kip.evaluate import evaluate_set
    from kip.judges import RandomFeatures
    from kip.kernels import permission
    from kip.kernels.architecture import kernel_named
    from kip.runs import folder

    check_out(out)
    if ridge is not None and not kernel and not features:
        raise ConfigError(
            "--ridge",
            got=f"{ridge:g}, without --kernel or --features",
            expected="kernels that it regularises",
            remedy="A set's own judge has its own ridge; name that judge's kernel with --kernel to change it.",
        )
    permission.permit(*stax)
    sets = (distilled, *others)
    kernels = [kernel_named(name, get) for name in kernel]
    regulariser = None if ridge is None else Ridge(ridge)
    of_features = RandomFeatures.ridge if regulariser is None else regulariser
    networks = [RandomFeatures(network, networks_per_draw, of_features) for network in features]
    evaluations = []
    for path, name in zip(sets, folder.names(sets)):
        (loaded,) = folder.read_sets(path)
        with KernelBlocks(loaded.origin.blocks) as blocks:
            results = evaluate_set(
                loaded,
                blocks,
                kernels=kernels,
                features=networks,
                ridge=regulariser,
                data_dir=folder.place_of_data(path, data_dir),
                show_progress=True,
            )
        for result in results:
            test, validation = 100 * result.test_accuracy, 100 * result.validation_accuracy
            spread = "" if result.test_spread is None else f" +- {100 * result.test_spread:.2f}"
            whose = f"{name:24} " if len(sets) > 1 else ""
            print(f"{whose}{result.kernel:12} test {test:.2f}{spread} %  validation {validation:.2f} %", flush=True)
        mean = {field: sum(getattr(r, field) for r in results) / len(results) for field in results[0]._fields[1:3]}
        evaluations.append({"set": name, **mean, "kernels": [result._asdict() for result in results]})
    summary = {**evaluations[0], "sets": evaluations}
    save_json(out, summary)
    return summary


def transfer(
    distilled: Set,
    scheme: Annotated[Transfer, Flat] = Transfer(),  # noqa: B008 (frozen)
    *,
    baseline: tuple[Literal["natural", "full"], ...] = (),
    checkpoints: tuple[int, ...] = (),
    out: Out = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> dict[str, Any]:
    """Train finite networks on a distilled set by the paper's scheme, and on natural images by the same scheme.

    The learning rate, in units of the critical one of the empirical NTK, and the L2 strength are chosen on validation,
    and so is when to stop; fresh networks are then trained and tested. The paper's sizes want an accelerator. This
    smaller comparison takes minutes on two CPU cores:

        kip transfer runs/mnist_fc1_100/distilled.npz --network "ConvNet width=32" --steps 150 --factors 1 2 4 --l2 0

    Args:
        distilled: The set: an .npz file, or a run's folder with --checkpoints.
        scheme: The scheme of the training. Its defaults are the paper's.
        baseline: Also train on natural images of the same number (natural), on the whole train split (full), or both.
        checkpoints: The steps of a run whose sets are trained on; the best on validation is reported as the result.
        out: Write the results to this JSON file as they come; `kip report` shows a run's transfer*.json.
        data_dir: The folder of NAME.npz files. The default is where the run had them, or $KIP_DATA_DIR.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip.evaluate.transfer import TransferResult, transfer_set
    from kip.runs import folder
    from kip.sets.distilled import DistilledSet

    check_out(out)
    data_dir = folder.place_of_data(distilled, data_dir)
    sets = folder.read_sets(distilled, checkpoints, data_dir)
    results: list[TransferResult] = []
    summary: dict[str, Any] = {}
    wanted: list[tuple[DistilledSet, Baseline]] = [(checkpoint, "none") for checkpoint in sets]
    for trained_on, kind in [*wanted, *((sets[0], kind) for kind in baseline)]:
        result = transfer_set(trained_on, scheme, baseline=kind, data_dir=data_dir, progress=say)
        test, spread = 100 * result.test_accuracy, 100 * result.test_spread
        step = f" step {result.checkpoint}" if result.trained_on == "distilled" else ""
        print(f"{result.trained_on + step:24} {result.images:6} images  test {test:.2f} +- {spread:.2f} %", flush=True)
        results.append(result)
        best = max(results[: len(sets)], key=lambda result: result.validation_accuracy)
        summary = {
            "test_accuracy": best.test_accuracy,
            "test_spread": best.test_spread,
            "checkpoint": best.checkpoint,
            "validation_accuracy": best.validation_accuracy,
            "results": [result.to_dict() for result in results],
        }
        save_json(out, summary)
    return summary


def compare(
    sets: tyro.conf.Positional[tuple[str, ...]],
    comparison: Annotated[Comparison, Flat] = Comparison(),  # noqa: B008 (frozen)
    *,
    vary: tuple[str, ...] = (),
    out: Path = Path("runs/comparison"),
    jobs: int = 1,
    executor: Literal["local", "ray"] = "local",
    address: Address = None,
    device_share: float = 1.0,
    data_dir: DataDir = None,
    stax: Stax = (),
    json: Json = False,
) -> dict[str, Any]:
    """Compare distilled sets under named protocols: one table of sets x networks x protocols.

    HL trains on hard labels, SL on a teacher's fixed soft labels, SL+KD on the teacher's labels of every augmented
    view, FKD on such labels that are stored beforehand, and OWN on the set's own labels. DC, DC-MNIST, DSA, DC-BENCH
    and MTT follow the public code of those names, down to the number of passes; MTT trains at the rate that a set was
    learned with, or at --rate. A configuration is run first, if it was not yet. Running the same command again repeats
    no run and no cell of the table, and a comparison of others into the same folder keeps the rows that are there.

        kip compare runs/digits_convnet --protocols HL SL SL+KD --baselines random k_centers
        kip compare mnist_fc1_10 mnist_frepo_10 --baselines random --networks "ConvNet-D3 width=32" --seeds 3
        kip compare "coresets:mnist_*_ipc10" --protocols HL SL+KD --networks "ConvNet-D3 width=32"
        kip compare mnist_fc1_10 --vary method.learning_rate=0.01,0.04 seed=0,1 --out runs/rates
        kip compare "coresets:mnist_*_ipc10" --jobs 4
        kip compare "coresets:mnist_*_ipc10" --executor ray --address auto

    Args:
        sets: The sets: .npz files, runs' folders, and configurations by name or file. FILE:PATTERN, with * and ?,
            stands for all rows of a file that match.
        comparison: Options of the table's rows and of the training.
        vary: FIELD=VALUE,VALUE for a field of the configurations, which are run with each value; several fields give
            every combination.
        out: The folder of the table: comparison.json, .csv, .md and .tex, the picture as .png, .svg and .pdf, the
            runs, and the cells that are known.
        jobs: The number of processes of this machine that run configurations and train cells, on one GPU each where
            there are any. The table is the same for any number.
        executor: The place where runs and cells are computed: in processes of this machine (local), or in tasks of a
            Ray cluster, as many at a time as it has GPUs, or CPUs where it has none. Its machines share the folder
            --out and the cache.
        address: The address of a Ray cluster that runs, such as auto. The default is a new one on this machine.
        device_share: The part of a GPU that each run or cell takes: 0.5 computes two at a time on each.
        data_dir: The folder of NAME.npz files. The default is where the run had them, or $KIP_DATA_DIR.
        stax: The functions of Stax and Features kernels that a set or a .json configuration may load.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip import experiment
    from kip.cli import pools
    from kip.evaluate import comparison as measure
    from kip.kernels import permission
    from kip.pictures import comparison as report
    from kip.runs import folder
    from kip.storage.locks import sole_writer

    permission.permit(*stax)
    data_dir = folder.place_of_data([Path(name) for name in sets], data_dir)
    sets = tuple(_set_or_configuration(row) for name in sets for row in experiment.matching(name))
    with (
        sole_writer(out),
        pools.opened(out, jobs=jobs, executor=executor, address=address, device_share=device_share) as pool,
    ):
        table = measure.compare(
            sets,
            comparison,
            out=out,
            vary=vary,
            data_dir=data_dir,
            pool=pool,
            show_progress=True,
            progress=functools.partial(print, flush=True),
            save=functools.partial(save_json, out / measure.TABLE),
        )
        for path in report.write(table, out):
            print(f"written: {path}")
    return table


def _set_or_configuration(name: str) -> str:
    """Return the name of a set that comes with kip with its ending, unless a configuration has that name too.

    A configuration is run, and a line says so.
    """
    from kip import experiment
    from kip.sets.cards import is_shipped

    if name.endswith(".npz") or not is_shipped(name):
        return name
    if name not in experiment.names():
        return f"{name}.npz"
    say(f"kip: {name} is run, as a configuration; {name}.npz is the set of that name that comes with kip")
    return name


def dcs(
    configs: tyro.conf.Positional[tuple[str, ...]],
    correlation: Annotated[Correlation, Flat] = Correlation(),  # noqa: B008 (frozen)
    *,
    out: Path = Path("runs/dcs"),
    data_dir: DataDir = None,
    json: Json = False,
) -> dict[str, Any]:
    """Ask whether methods' losses rank sets as networks do: the distillation correlation score (DCS).

    Subsets of the train images, of several sizes and of good and bad choices, are scored by the loss that each
    configuration's method would minimise, and by the test error of networks that are trained on them. Running the same
    command again repeats no training and no loss.

        kip dcs mnist_dm_10 mnist_fc1_10 --subsets 60 --network "ConvNet-D3 width=32"

    Args:
        configs: The configurations whose methods are asked, by name or file; of one data set.
        correlation: The subsets, and how they are judged.
        out: The folder of dcs.json and dcs.png, and of the errors and losses that are known.
        data_dir: The folder of NAME.npz files. The default is $KIP_DATA_DIR.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip.evaluate.dcs import correlate
    from kip.pictures import dcs as report
    from kip.storage.locks import sole_writer

    with sole_writer(out):
        results = correlate(
            configs,
            correlation,
            out=out,
            data_dir=data_dir,
            show_progress=True,
            progress=functools.partial(print, flush=True),
        )
        for name, score in results["scores"].items():
            print(f"{name:32} {report.as_text(score)}")
        save_json(out / "dcs.json", results)
        print(f"written: {report.write(results, out)}")
    return results


def scaling(
    table: tyro.conf.Positional[Path],
    *,
    protocol: str = "SL+KD",
    method: str | None = None,
    held_out: int = 1,
    out: Out = None,
    json: Json = False,
) -> dict[str, Any]:
    """Fit the scaling law of repeated data to a comparison: test error as a function of images and epochs.

    The trainings that have seen most images are held out, and the law is held against them. A table that it can be
    fitted to has several sizes and numbers of epochs:

        kip compare "coresets:mnist_random_*" --protocols SL+KD --epochs 20 50 100 --out sizes
        kip scaling sizes/comparison.json --protocol SL+KD

    Args:
        table: The comparison.json of `kip compare`.
        protocol: The protocol whose trainings are taken, with all of its numbers of epochs.
        method: The method whose sets are taken. The default is all.
        held_out: The number of trainings that are held out of the fit.
        out: The picture. The default is scaling.png beside the table.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip.errors import DataError
    from kip.evaluate.scaling import held_against, observations
    from kip.pictures import scaling as report
    from kip.storage.json_files import read_object

    check_out(out)
    contents = read_object(table)
    if contents is None:
        raise DataError(f"cannot read {table}", expected="the comparison.json of `kip compare`")
    results = held_against(observations(contents, protocol, method), held_out)
    law, rows = results["law"], results["observations"]
    values = ", ".join(f"{name} {law[name]:.4g}" for name in ("a", "b", "d"))
    print(f"{values}, tau {law['tau']:.4g} epochs; fitted to {len(rows) - held_out} trainings")
    if not results["wears_out"]:
        print("tau is at the bound of the search: in these epochs images keep their worth")
    for row in rows:
        if row["held_out"]:
            where = f"{row['images']} images, {row['epochs']} epochs"
            print(f"held out: {where}: error {100 * row['error']:.2f} %, predicted {100 * row['predicted']:.2f} %")
    print(f"written: {report.write(results, out or table.with_name('scaling.png'))}")
    return results


def natural(
    data: tyro.conf.Positional[str],
    *,
    kernel: str = "ConvNet",
    get: Literal["ntk", "nngp"] = "ntk",
    per_class: tuple[int, ...] = (1, 2, 4),
    subsets: int = 20,
    targets: int | None = None,
    preprocess: Literal["none", "standardize", "zca", "zca_notebook", "zca_frepo", "zca_kornia"] = "standardize",
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
        kernel: The kernel: FC1, ConvVec3, ConvNet, ConvNet3, Myrtle5, RBF, Laplace, ...
        get: The kernel of a named network that is computed: the neural tangent kernel, or the Gaussian process kernel.
        per_class: The sizes of the subsets, in images per class.
        subsets: The number of random subsets of each size. A draw's smaller subsets are parts of its largest.
        targets: The number of test images, class-balanced, that the subsets are scored on. The default is all.
        preprocess: The preprocessing of pixels before a kernel sees them.
        regularization: The addition to every eigenvalue of the covariance by ZCA, in units of their mean. Other
            preprocessing ignores it.
        ridge: The addition to the kernel's diagonal, in units of its mean.
        seed: The seed of the random draws.
        data_dir: The folder of NAME.npz files. The default is $KIP_DATA_DIR.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip import data as sources
    from kip import krr
    from kip import preprocess as preprocessing
    from kip.blocks import Blocks, KernelBlocks
    from kip.evaluate.natural_subsets import natural_subsets
    from kip.kernels.architecture import kernel_named

    loaded = sources.load(sources.Data(data), data_dir)
    transform = preprocessing.fit(preprocessing.Preprocess(preprocess, regularization), loaded.train.images)
    with KernelBlocks(Blocks()) as blocks:
        results = natural_subsets(
            loaded,
            transform.apply,
            blocks,
            kernel_named(kernel, get),
            krr.Ridge(ridge),
            per_class=per_class,
            subsets=subsets,
            targets=targets,
            seed=seed,
            progress=lambda numbers: counted(numbers, len(numbers), "subsets"),
        )
    for result in results:
        print(f"{result.per_class:5} a class  test {100 * result.mean:.2f} +- {100 * result.std:.2f} %")
    return {"subsets": [{**result._asdict(), "mean": result.mean, "std": result.std} for result in results]}


def pretraining(
    sets: tyro.conf.Positional[tuple[Path, ...]],
    comparison: Annotated[Pretraining, Flat],
    *,
    out: Out = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> dict[str, Any]:
    """Pre-train networks on distilled sets and use them on a second data set: a table of sets x networks x protocols.

    probe fits a linear classifier to frozen features, fine-tune trains the whole network behind a fresh last layer, and
    data-free-kd teaches it a teacher's answers on the set, without images of the second data set.

        kip pretraining runs/emnist_krr_st_20/distilled.npz --data mnist --how probe fine-tune --labelled 100

    Args:
        sets: The sets: .npz files, or runs' folders.
        comparison: Options of what is compared.
        out: Write the results to this JSON file as they come; `kip report` shows a run's pretraining*.json.
        data_dir: The folder of NAME.npz files. The default is where the run had them, or $KIP_DATA_DIR.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip.evaluate.pretraining import PretrainingCell, line
    from kip.evaluate.pretraining import pretraining as measure
    from kip.runs import folder

    check_out(out)
    cells: list[dict[str, Any]] = []
    table = {"data": comparison.data.name, "labelled": comparison.labelled, "cells": cells}

    def note(cell: PretrainingCell) -> None:
        print(line(cell), flush=True)
        cells.append(cell._asdict())
        save_json(out, table)

    measure(sets, comparison, data_dir=folder.place_of_data(sets, data_dir), progress=note)
    return table
