"""Commands that look at distilled sets and judge them, and what they are compared with."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any, Literal

import tyro

from kip.cli.options import DataDir, Json, check_out, save_json
from kip.errors import ConfigError


def evaluate(
    distilled: tyro.conf.Positional[Path],
    others: tyro.conf.Positional[tuple[Path, ...]] = (),
    *,
    kernel: tuple[str, ...] = (),
    get: Literal["ntk", "nngp"] = "ntk",
    out: Path | None = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> dict[str, Any]:
    """Evaluate distilled sets: KRR accuracy on their data sets, under the kernels they were made with or any others.

        kip evaluate runs/digits_convnet/distilled.npz --kernel FC1 ConvVec3 RBF

    Several sets give a table of sets x kernels: how well each, learned under one kernel, serves under the others.

    Args:
        distilled: The set, an .npz file.
        others: More sets.
        kernel: FC1, ConvVec3, ConvNet, ConvNet3, Myrtle5, RBF, Laplace, ...; default: each set's own.
        get: For named networks: the neural tangent kernel, or the Gaussian process kernel.
        out: Write the results to this JSON file; `kip report` shows those that are in the run as evaluation*.json.
        data_dir: Folder of NAME.npz files; default: $KIP_DATA_DIR.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip import export
    from kip.blocks import KernelBlocks
    from kip.evaluate import evaluate_set, runs
    from kip.kernels.architecture import kernel_named

    check_out(out)
    sets = (distilled, *others)
    kernels = [kernel_named(name, get) for name in kernel] or None
    found = []
    for path in sets:
        loaded = export.load(path)
        with KernelBlocks(loaded.experiment.blocks) as blocks:
            results = evaluate_set(loaded, blocks, kernels=kernels, data_dir=data_dir)
        name = runs.name(path)
        for result in results:
            test, validation = 100 * result.test_accuracy, 100 * result.validation_accuracy
            spread = "" if result.test_spread is None else f" +- {100 * result.test_spread:.2f}"
            whose = f"{name:24} " if len(sets) > 1 else ""
            print(f"{whose}{result.kernel:12} test {test:.2f}{spread} %  validation {validation:.2f} %", flush=True)
        mean = {field: sum(getattr(r, field) for r in results) / len(results) for field in results[0]._fields[1:3]}
        found.append({"set": name, **mean, "kernels": [result._asdict() for result in results]})
    summary = {**found[0], "sets": found}
    save_json(out, summary)
    return summary


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
        out: Write the results to this JSON file as they come; `kip report` shows a run's transfer*.json.
        data_dir: Folder of NAME.npz files; default: $KIP_DATA_DIR.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip.evaluate import runs
    from kip.evaluate.transfer import Baseline, Transfer, TransferResult, transfer_set
    from kip.export import DistilledSet
    from kip.finite import Network

    options = {
        "loss": loss, "factors": factors, "l2": l2, "steps": steps, "batch": batch, "evaluations": evaluations,
        "search_seeds": search_seeds, "seeds": seeds, "validation": validation, "vectorise": vectorise, "seed": seed,
    }  # fmt: skip
    check_out(out)
    given = {name: option for name, option in options.items() if option is not None}
    config = Transfer(Network(network, width, norm, parameterization), **given)
    progress = functools.partial(print, file=sys.stderr, flush=True)
    sets = runs.sets(distilled, checkpoints, data_dir)

    results: list[TransferResult] = []
    found: dict[str, Any] = {}
    wanted: list[tuple[DistilledSet, Baseline]] = [(one, "none") for one in sets]
    for one, on in [*wanted, *((sets[0], on) for on in baseline)]:
        result = transfer_set(one, config, baseline=on, data_dir=data_dir, progress=progress)
        test, spread = 100 * result.test_accuracy, 100 * result.test_spread
        step = f" step {result.checkpoint}" if result.trained_on == "distilled" else ""
        print(f"{result.trained_on + step:24} {result.images:6} images  test {test:.2f} +- {spread:.2f} %", flush=True)
        results.append(result)
        best = max(results[: len(sets)], key=lambda result: result.validation_accuracy)
        found = {
            "test_accuracy": best.test_accuracy,
            "test_spread": best.test_spread,
            "checkpoint": best.checkpoint,
            "validation_accuracy": best.validation_accuracy,
            "results": [result.to_dict() for result in results],
        }
        save_json(out, found)
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
        out: Write the results to this JSON file as they come; `kip report` shows a run's protocols*.json.
        data_dir: Folder of NAME.npz files; default: $KIP_DATA_DIR.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip.evaluate.protocol_run import Judgement, judge
    from kip.finite import Network

    check_out(out)
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
    progress = functools.partial(print, flush=True)
    return judge(sets, judgement, data_dir=data_dir, progress=progress, save=functools.partial(save_json, out))


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

    check_out(out)
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
    save_json(out, found)
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


def pretraining(
    sets: tyro.conf.Positional[tuple[Path, ...]],
    *,
    data: str,
    how: tuple[Literal["probe", "fine-tune", "data-free-kd"], ...] = ("probe",),
    start: tuple[Literal["distilled", "random", "random-classes", "none"], ...] = ("distilled", "random", "none"),
    network: tuple[str, ...] = (),
    width: int | None = None,
    norm: Literal["none", "layer", "instance", "batch"] | None = None,
    labelled: int | None = 1000,
    steps: int | None = None,
    teacher: str = "ConvNet-D3",
    teacher_width: int | None = None,
    teacher_steps: int = 5000,
    seeds: int = 3,
    out: Path | None = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> dict[str, Any]:
    """Pre-train networks on distilled sets and use them on a second data set: a table of sets x networks x protocols.

    probe fits a linear classifier to frozen features, fine-tune trains the whole network behind a fresh last layer, and
    data-free-kd teaches it a teacher's answers on the set, without images of the second data set.

        kip pretraining runs/emnist_krr_st_20/distilled.npz --data mnist --how probe fine-tune --labelled 100

    Args:
        sets: The sets, .npz files, or runs' folders.
        data: The second data set, of images of the same shape.
        how: What becomes of a pre-trained network.
        start: What networks are pre-trained on: the set; as many random images of its source, labelled as the set's
            are; such images with their classes; nothing.
        network: What is pre-trained; default: the network that a KRR-ST set was made for, or KRR-ST's default.
        width: Channels of its first layer; default: each network's own. Given with --network.
        norm: Its normalisation; default: each network's own. Given with --network.
        labelled: Train images of the second data set that probes and fine-tuning learn from; None: all.
        steps: Updates of fine-tuning and data-free KD; default: 5000, and 1000 epochs.
        teacher: The teacher's network for data-free-kd, with batch normalisation.
        teacher_width: Channels of its first layer.
        teacher_steps: Its updates, in batches of 100.
        seeds: Networks of each cell.
        out: Write the results to this JSON file as they come; `kip report` shows a run's pretraining*.json.
        data_dir: Folder of NAME.npz files; default: $KIP_DATA_DIR.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip import data as sources
    from kip.evaluate.pretraining import Cell, Pretraining, line
    from kip.evaluate.pretraining import pretraining as measure
    from kip.finite import Network

    check_out(out)
    if not network and (width is not None or norm is not None):
        raise ConfigError("--width and --norm", got="no --network", expected="them with --network", remedy="Name one.")
    config = Pretraining(
        sources.Data(data),
        how=how,
        starts=start,
        networks=tuple(Network(name, width, norm) for name in network),
        labelled=labelled,
        steps=steps,
        teacher=Network(teacher, teacher_width, "batch"),
        teacher_steps=teacher_steps,
        seeds=seeds,
    )
    cells: list[dict[str, Any]] = []
    found = {"data": data, "labelled": labelled, "cells": cells}

    def note(cell: Cell) -> None:
        print(line(cell), flush=True)
        cells.append(cell._asdict())
        save_json(out, found)

    measure(sets, config, data_dir=data_dir, progress=note)
    return found


def show(
    distilled: tyro.conf.Positional[Path],
    *,
    prototypes: bool = False,
    representations: bool = False,
    out: Path | None = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> dict[str, Any]:
    """Draw a distilled set as a picture: its images by class, and its labels.

    Args:
        distilled: The set, an .npz file.
        prototypes: Draw one image a class instead, the mean of all images with their labels for it as weights.
        representations: Of a KRR-ST set: draw where its images and labels lie among real images, by t-SNE of the
            teacher's representations, instead.
        out: The picture, a .png file; default: beside the set, with its name.
        data_dir: Folder of NAME.npz files; default: $KIP_DATA_DIR. Needed for representations only.
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
    if representations:
        from kip.evaluate import embedding

        found = embedding.representations(loaded, data_dir=data_dir)
        embedding.draw(embedding.embed(found), out, title=title)
        print(out)
        return {"out": str(out), "images": len(loaded.images)}
    if prototypes:
        images = report.prototypes(loaded.images, loaded.labels)
        labels, class_index = np.eye(len(images)), np.arange(len(images))
    else:
        images, labels = loaded.images, loaded.labels
        class_index = report.shown_class(labels, loaded.class_index)
    of_teacher = experiment.learns_representations and not prototypes
    report.save_images(out, images, labels, class_index, representations=of_teacher, title=title)
    print(out)
    return {"out": str(out), "images": len(images)}


def report(run: tyro.conf.Positional[Path], *, out: Path | None = None, json: Json = False) -> dict[str, Any]:
    """Write a run's report: one HTML page that needs no network and no other file, and fits a phone.

    It shows what lies in the run's folder: scores, curves, images before and after, labels, and the results that
    `kip evaluate`, `kip transfer`, `kip protocols`, `kip pretraining` and `kip analyze` wrote there with
    --out RUN/evaluation.json, transfer.json, protocols.json, pretraining.json and analysis.json.

    Args:
        run: The run's folder.
        out: The page; default: RUN/report.html.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip import page

    path = page.write(run, out)
    print(path)
    return {"out": str(path), "bytes": path.stat().st_size}
