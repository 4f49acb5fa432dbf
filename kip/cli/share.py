"""Commands that bring distilled sets in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from kip.cli.options import (
    DataDir,
    Json,
    Out,
    Run,
    Step,
)
from kip.data import Data
from kip.preprocess import Preprocess
from kip.sets.formats import Format


def export(
    run: Run,
    *,
    step: Step = None,
    format: Format = "npz",
    out: Out = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> dict[str, Any]:
    """Export a run's distilled set, also while the run goes on or after it was stopped.

        kip export runs/digits_convnet --step 25
        kip export runs/digits_convnet --format folder
        kip export others.npz --format huggingface --out others_dataset

    Format npz loads with numpy.load(FILE, allow_pickle=False); its arrays are images (pixel space, 1.0 is white),
    images_preprocessed, labels, class_index, image_statistics and metadata (a JSON string). With ZCA, a second file
    beside it, preprocess.npz or NAME.preprocess.npz, holds the whitening, for new images.

    Format folder writes a picture per image in a folder per class, and labels.csv. Format torch writes a file that
    torch.load(FILE, weights_only=True) reads. Format huggingface writes a folder that datasets.load_dataset(FOLDER)
    reads, with a card.

    Args:
        run: The run's folder, a set's .npz file, or a name that `kip sets` lists.
        step: The step of the checkpoint that is exported. The default is the best on validation.
        format: The format that is written.
        out: The file or folder to write. The default is in the run's folder: distilled, or distilled_STEP with --step,
            and the format's ending.
        data_dir: The folder of NAME.npz files. The default is where the run had them, or $KIP_DATA_DIR.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip.runs.folder import export_run

    result = export_run(run, step=step, form=format, out=out, data_dir=data_dir)
    print(result["out"])
    return result


def sets(*, json: Json = False) -> dict[str, Any]:
    """List the distilled sets that come with kip: what each is, its score, and the command that made it.

        kip sets
        kip evaluate mnist_fc1_10

    Commands that take a SET take these names; `kip compare` takes NAME.npz, because NAME is a configuration.

    Args:
        json: Print one JSON object with the results as the last line of stdout. It has all of each set's card.
    """
    from kip.sets.cards import cards

    known = cards()
    width = max(map(len, known))
    for name, card in known.items():
        natural = "" if card.natural is None else f" (natural images {100 * card.natural:.1f} %)"
        score = "" if card.score is None else f"{100 * card.score:.1f} %{natural} under {card.judge}"
        print(f"{name:{width}}  {card.images:4} images  {score}")
        print(f"{'':{width}}  {card.source or card.data}; made by `{card.command}`")
    return {"sets": {name: card._asdict() for name, card in known.items()}}


def import_(
    file: tyro.conf.Positional[Path],
    *,
    data: Annotated[Data, tyro.conf.arg(name="data")],
    values: Literal["pixels", "bytes", "normalised", "preprocessed"],
    out: Path,
    name: str = "published",
    labels: Path | None = None,
    labels_are: Literal["scores", "probabilities", "logits"] | None = None,
    arrays: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[IMAGES [LABELS]]")] = (),
    per_class: Annotated[int | None, tyro.conf.arg(metavar="N")] = None,
    index: int = 0,
    mean: tuple[float, ...] = (),
    deviation: tuple[float, ...] = (),
    class_order: tuple[str, ...] = (),
    preprocess: Preprocess = Preprocess(),  # noqa: B008 (frozen)
    kernel: str = "ConvNet",
    rate: float | None = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> dict[str, Any]:
    """Import a set that others have published (.npz, .npy, .pt, Flax's checkpoint, a folder) to judge and show it.

    Such a file is not trusted: its arrays are read, and nothing that it names is run. torch is not needed. A folder
    holds a folder of images for each class, whose names are matched to the data set's, WordNet ids too.

        kip import kip_cifar10.npz --data cifar10 --values preprocessed --preprocess.kind zca --out kip.npz
        kip import res_DSA.pt --data cifar10 --values normalised --mean 0.4914 0.4822 0.4465
            --deviation 0.2023 0.1994 0.2010 --out dsa.npz
        kip import rded_images --data cifar10 --values pixels --out rded.npz
        kip import others --data mine --values pixels --class-order zebra ant cat --out others.npz
        kip import images_best.pt --data cifar10 --values preprocessed --preprocess.kind zca_frepo --per-class 10
            --out mtt.npz
        kip import checkpoint_15000 --data cifar10 --values preprocessed --preprocess.kind zca_frepo --out rcig.npz

    Args:
        file: The file with the images, or the folder.
        data: The data set that the set was distilled from.
        values: The values of its images: pixels in [0, 1]; bytes, 0 to 255; normalised, (pixel - mean) /
            deviation by channel; or preprocessed, the values that kip's own preprocessing gives. Values of another
            range are refused.
        out: The .npz file to write.
        name: The name of the method that tables show.
        labels: The file with the labels, where the first one holds images alone.
        labels_are: The kind of its learned labels: the scores of a regression, probabilities, or logits, whose
            softmax is taken. The default is scores, with a warning where they might be logits.
        arrays: The names of the images and the labels in the file, or of the images alone. The default is the usual
            names, such as images and labels, or image_syn and label_syn.
        per_class: The number of images of each class, where the file has no labels and the images stand in the order of
            the classes. The default is that the file has labels.
        index: The index of the set that is taken, from 0, where the file holds several.
        mean: The means of normalised values, one for each channel.
        deviation: The deviations of normalised values, one for each channel.
        class_order: The class of each folder, where names cannot be matched: `sorted` takes the folders in the order
            of their names; a file has a folder's name in each line; or the names themselves, in the order of the
            classes.
        preprocess: The preprocessing of the images before a kernel or network sees them.
        kernel: The kernel that `kip evaluate` judges the set under.
        rate: The learning rate that the set was learned with, as MTT and its successors give it; `kip compare` trains
            at it under the protocol MTT. The default is a set without one.
        data_dir: The folder of NAME.npz files. The default is $KIP_DATA_DIR.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip import sets
    from kip.kernels.architecture import kernel_named
    from kip.sets.importing import import_set

    distilled = import_set(
        file,
        data,
        name=name,
        values=values,
        labels=labels,
        labels_are=labels_are,
        arrays=arrays,
        per_class=per_class,
        index=index,
        mean=mean,
        deviation=deviation,
        classes=class_order,
        preprocessing=preprocess,
        kernel=kernel_named(kernel, "ntk"),
        rate=rate,
        data_dir=data_dir,
    )
    sets.save(out, distilled)
    print(out)
    return {"out": str(out), "images": len(distilled.images), "learned_labels": distilled.origin.labels_are == "scores"}
