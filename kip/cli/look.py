"""Commands that look at distilled sets: measures, pictures, the page."""

from __future__ import annotations

from typing import Any, Literal

from kip.cli.options import (
    DataDir,
    Json,
    Out,
    Run,
    Runs,
    Set,
    Stax,
    check_out,
    named,
    save_json,
    while_going_on,
)
from kip.errors import ConfigError


def analyze(
    distilled: Set,
    *,
    kernel: str | None = None,
    get: Literal["ntk", "nngp"] = "ntk",
    checkpoints: tuple[int, ...] = (),
    targets: int | None = None,
    repeats: int = 20,
    features: str | None = None,
    feature_steps: int = 5000,
    out: Out = None,
    data_dir: DataDir = None,
    stax: Stax = (),
    json: Json = False,
) -> dict[str, Any]:
    """Measure a distilled set: dimension, spectrum, robustness to subsampling, nearest natural images, labels.

    The same is measured for the natural images that the set started from, where it is given as a run's folder that has
    its first checkpoint, and else for a class-balanced draw. Kernels are computed in float64.

        kip analyze runs/digits_convnet --kernel FC1 --checkpoints 0 25 50
        kip analyze runs/digits_convnet --features "ConvNet-D3 width=32" --feature-steps 500

    Args:
        distilled: The set: an .npz file, or a run's folder.
        kernel: The kernel whose features and spectrum are measured: FC1, ConvNet, RBF, ... The default is the set's
            own.
        get: The kernel of a named network that is computed: the neural tangent kernel, or the Gaussian process kernel.
        checkpoints: The steps of a run whose dimensions are measured as well.
        targets: The number of test images that bands and subsets are scored on. The default is all.
        repeats: The number of random subsets of each size.
        features: A network in whose features the Frechet distance (FID) from the train images is taken, after it has
            learned these. The default takes none.
        feature_steps: The number of updates of that network, in batches of 100.
        out: Write the results to this JSON file; `kip report` shows RUN/analysis.json.
        data_dir: The folder of NAME.npz files. The default is where the run had them, or $KIP_DATA_DIR.
        stax: The functions of Stax and Features kernels that the set may load. Loading one runs the file that it is in.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip.blocks import Blocks, KernelBlocks
    from kip.evaluate.analysis import analyze as measure
    from kip.kernels import permission
    from kip.kernels.architecture import kernel_named
    from kip.networks import Network

    check_out(out)
    permission.permit(*stax)
    with KernelBlocks(Blocks(dtype="float64")) as blocks:
        analysis = measure(
            distilled,
            blocks,
            kernel=None if kernel is None else kernel_named(kernel, get),
            checkpoints=checkpoints,
            targets=targets,
            repeats=repeats,
            features=None if features is None else named(Network, features),
            feature_steps=feature_steps,
            data_dir=data_dir,
            show_progress=True,
        )
    print(f"{'':22}{'distilled':>12}{'natural':>12}    ({analysis['natural_images']}; kernel {analysis['kernel']})")
    pair = [analysis["distilled"], analysis["natural"]]
    print(f"{'test accuracy':22}" + "".join(f"{100 * measured['accuracy']:10.2f} %" for measured in pair))
    for name in pair[0]["dimensions"]:
        print(
            f"{name.replace('_', ' ') + ' dimension':22}"
            + "".join(f"{measured['dimensions'][name]:12.1f}" for measured in pair)
        )
    if "features" in analysis:
        print(f"{'Frechet distance':22}" + "".join(f"{measured['frechet_distance']:12.2f}" for measured in pair))
    for index, band in enumerate(pair[0]["bands"]):
        heading = f"eigenvalues {band['first'] + 1}-{band['last']}"
        print(f"{heading:22}" + "".join(f"{100 * measured['bands'][index]['accuracy']:10.2f} %" for measured in pair))
    for fraction in pair[0]["subsampled"]:
        heading = f"{100 * float(fraction):.0f} % of the images"
        print(f"{heading:22}" + "".join(f"{100 * measured['subsampled'][fraction]:10.2f} %" for measured in pair))
    save_json(out, analysis)
    return analysis


def show(
    distilled: Set,
    *,
    prototypes: bool = False,
    representations: bool = False,
    out: Out = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> dict[str, Any]:
    """Draw a distilled set as a picture: its images by class, and its labels.

    Args:
        distilled: The set: an .npz file, or a run's folder.
        prototypes: Draw one image per class instead: the mean of all images, weighted by their labels for the class.
        representations: Draw instead where the images and labels of a KRR-ST set lie among real images, by t-SNE of
            the teacher's representations.
        out: The picture, a .png file. The default is a file beside the set, with its name.
        data_dir: The folder of NAME.npz files. The default is where the run had them, or $KIP_DATA_DIR. It is needed
            for representations only.
        json: Print one JSON object with the results as the last line of stdout.
    """
    import numpy as np

    from kip.pictures import appearance
    from kip.pictures.images import save_images
    from kip.runs import folder

    (loaded,) = folder.read_sets(distilled)
    out = out or (distilled / folder.DISTILLED if distilled.is_dir() else distilled).with_suffix(".png")
    if out.suffix.lower() != ".png":
        raise ConfigError("--out of the picture", got=out, expected="a name ending in .png")
    origin = loaded.origin
    title = appearance.title_of(f"{origin.data.name}, {origin.label}, step {loaded.metadata['step']}")
    if representations:
        from kip.evaluate import embedding

        points = embedding.representations(loaded, data_dir=folder.place_of_data(distilled, data_dir))
        embedding.draw(embedding.embed(points), out, title=title)
        print(out)
        return {"out": str(out), "images": len(loaded.images)}
    if prototypes:
        images = appearance.prototypes(loaded.images, loaded.labels)
        labels, class_index = np.eye(len(images)), np.arange(len(images))
    else:
        images, labels = loaded.images, loaded.labels
        class_index = appearance.shown_class(labels, loaded.class_index)
    of_teacher = origin.labels_are == "representations" and not prototypes
    save_images(
        out, images, labels, class_index, representations=of_teacher, title=title, class_names=loaded.class_names
    )
    print(out)
    return {"out": str(out), "images": len(images)}


def report(
    run: Run,
    others: Runs = (),
    *,
    out: Out = None,
    watch: bool = False,
    json: Json = False,
) -> dict[str, Any]:
    """Write a run's report: one HTML page that needs no network and no other file, and fits a phone.

        kip report runs/digits_convnet
        kip report runs/short runs/digits_convnet --out both.html

    It shows what lies in the run's folder: scores, curves, images before and after, labels, and the results that
    `kip evaluate`, `kip transfer`, `kip compare`, `kip pretraining` and `kip analyze` wrote there with
    --out RUN/evaluation.json, transfer.json, comparison, pretraining.json and analysis.json.

    Args:
        run: The run's folder.
        others: More runs for the same page. Then --out names the page.
        out: The page. The default is RUN/report.html.
        watch: Write the page again every 30 seconds while a run goes on. The page in a browser loads itself again.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip.report import page

    path = page.write([run, *others], out)
    print(path, flush=True)
    if watch:
        for _ in while_going_on([run, *others], page.REFRESH):
            page.write([run, *others], out)
    return {"out": str(path), "bytes": path.stat().st_size}
