"""`kip report`: runs as one HTML page that needs no network, no script and no other file, and fits a phone.

Everything that lies in a run's folder is shown: scores, also by class, learning curves, the images before and after,
the label matrix, and where they were made, `evaluation*.json`, `transfer*.json`, `comparison*/comparison.json`,
`pretraining*.json` and `analysis.json`. What is missing is left out.

The page is a template (`kip/report/page.html`) that escapes all text; this file says what stands in it.
"""

from __future__ import annotations

import base64
import datetime
import io
import json
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kip import sets
from kip.data import picture_file
from kip.errors import ConfigError, KipError
from kip.judges import KernelJudge
from kip.pictures import charts
from kip.pictures.appearance import are_learned, displayed, drawable, heading_of, shown_class, tick_of
from kip.pictures.charts import Picture
from kip.runs import folder
from kip.sets.distilled import DistilledSet
from kip.storage.files import atomic_write, open_regular
from kip.storage.json_files import is_number, read_object, read_rows
from kip.storage.locks import has_writer

LOGGER = logging.getLogger(__name__)
TEMPLATES = Path(__file__).parent
"""The folder of `page.html`."""
COMPARISONS = "comparison*/comparison.json"
MOST_IMAGES = 100
"""The most images that are shown; of larger sets, each class shows as many."""
REFRESH = 30
"""Seconds after which the page of a run that goes on loads itself again."""
FILES = ("distilled.npz", "preprocess.npz", "config.json", "metrics.jsonl", "result.json", "images.png", "curves.png")
"""The files that the header links to, where they are beside the page."""
LARGEST_PICTURE = 1 << 26
"""The largest file of a picture that is taken into the page, in bytes."""
CLASSES = 40
"""More classes than this are not drawn one by one."""


class Image(NamedTuple):
    """An image of the set: its pictures, before and after, and its class."""

    sources: list[str]
    name: str


class Section(NamedTuple):
    """A part of the page; what is empty is left out.

    Attributes:
        title: its heading.
        figure: a number in large type.
        notes: lines in small type.
        head: the heading of the table.
        rows: the table.
        charts: pictures side by side.
        images: images of the set.
        whole: a picture that is shown on demand.
        text: shown on demand, as it is.
    """

    title: str
    figure: str = ""
    notes: Sequence[str] = ()
    head: Sequence[str] | None = None
    rows: Sequence[Sequence[str]] = ()
    charts: Sequence[Picture] = ()
    images: Sequence[Image] = ()
    whole: Picture | None = None
    text: str = ""


class Run(NamedTuple):
    """A run on the page."""

    title: str
    header: str
    links: list[tuple[str, str]]
    sections: list[Section]


def write(run: Path | Sequence[Path], out: Path | None = None) -> Path:
    """Write the page of a run, or of several; return its path.

    Args:
        run: the run's folder, or several.
        out: the file; None: RUN/report.html of a single run.

    Raises:
        ConfigError: if `run` is no run, or there are several and no `out`.
        DataError: if a run has no distilled set, or one that cannot be read.
        OutputError: if the page cannot be written.
    """
    runs = [run] if isinstance(run, Path) else list(run)
    if out is None and len(runs) != 1:
        raise ConfigError("--out of a page of several runs", got="none", expected="a file, such as --out runs.html")
    path = out or runs[0] / "report.html"
    shown = [_run(each, path) for each in runs]
    environment = _environment()
    text = environment.get_template("page.html").render(
        title=" · ".join(each.title for each in shown),
        runs=shown,
        refresh=REFRESH if any(has_writer(each) for each in runs) else None,
    )
    atomic_write(path, lambda file: file.write(text.encode()))
    return path


def _environment() -> Any:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )


def _run(run: Path, page: Path) -> Run:
    folder.check(run)
    distilled = sets.load(run / folder.DISTILLED)
    origin, result = distilled.origin, _result(run / folder.RESULT)
    metrics = run / folder.METRICS
    changed = max(path.stat().st_mtime for path in (metrics, run / folder.DISTILLED) if path.is_file())
    date = datetime.datetime.fromtimestamp(changed).strftime("%Y-%m-%d %H:%M")
    versions = distilled.metadata.get("versions") or {}
    libraries = ", ".join(f"{name} {versions[name]}" for name in ("kip", "jax", "python") if versions.get(name))
    header = f"run {folder.name(run)} · seed {origin.seed} · {date} · {libraries}"
    there = [name for name in FILES if (run / name).is_file() and page.resolve().parent == run.resolve()]
    sections: list[Section | None] = [
        _scores(distilled, result),
        _by_class(distilled, result),
        _curves(metrics),
        _images(distilled, _before(run, distilled), run / "images.png"),
        _labels(distilled),
        *[_of_file(p, _evaluation, f"Under other kernels: {p.stem}") for p in _found(run, "evaluation*.json")],
        *[_of_file(p, _transfer, f"Networks trained on it: {p.stem}") for p in _found(run, "transfer*.json")],
        *[_of_file(p, _comparison, f"Protocols: {p.parent.name}") for p in _found(run, COMPARISONS)],
        *[_of_file(p, _pretraining, f"Pre-training: {p.stem}") for p in _found(run, "pretraining*.json")],
        *[_of_file(p, _analysis, "Analysis") for p in _found(run, "analysis.json")],
        Section("Configuration", text=json.dumps(origin.experiment, indent=1)),
    ]
    title = f"{origin.data.name}, {len(distilled.images)} images, {origin.method}"
    return Run(title, header, [(name, name) for name in there], [section for section in sections if section])


def _scores(distilled: DistilledSet, result: Any) -> Section:
    about, origin = distilled.metadata, distilled.origin
    kernels = isinstance(origin.judge, KernelJudge) and ", ".join(kernel.label for kernel in origin.judge.kernels)
    rows = [("kernels", kernels) if kernels else ("network", origin.label)]
    rows += [("preprocessing", origin.preprocess.kind), ("exported step", str(about["step"]))]
    test = about.get("test_accuracy")
    if result:
        if is_number(result.get("initial_test_accuracy")):
            rows.append(("natural images, test", _percent(result["initial_test_accuracy"])))
        averaged = result.get("paper_steps")
        if isinstance(averaged, list) and len(averaged) > 1:
            name = f"mean of the {len(averaged)} checkpoints of lowest train loss, test"
            spread = result.get("paper_test_spread")
            rows.append((name, _score(result["paper_test_accuracy"], spread if is_number(spread) else 0.0)))
        rows.append(("steps, seconds", f"{result['steps']}, {result['seconds']:.0f}"))
        if is_number(result.get("peak_memory_mib")):
            rows.append(("largest memory", f"{result['peak_memory_mib']} MiB"))
    if about.get("validation_accuracy") is not None:
        rows.append(("validation", _percent(about["validation_accuracy"])))
    if origin.reference:
        rows.append(("published", str(origin.reference)))
    how = "KRR" if kernels else "networks trained on the set"
    figure = "" if test is None else _percent(test)
    return Section("Scores", figure, [f"test accuracy, {how}"] if figure else [], rows=rows)


def _by_class(distilled: DistilledSet, result: Any) -> Section | None:
    """Show the accuracy of each class, once the run has ended."""
    scores = (result or {}).get("class_test_accuracies")
    if not isinstance(scores, list) or not 0 < len(scores) <= CLASSES:
        return None
    known = {number: score for number, score in enumerate(scores) if is_number(score) and 0 <= score <= 1}
    if not known:
        return None
    names = [heading_of(number, drawable(distilled.class_names)).removeprefix("class ") for number in known]
    return Section("Test accuracy by class", charts=[charts.bars({"test": list(known.values())}, names, y="accuracy")])


def _curves(path: Path) -> Section | None:
    rows = read_rows(path)

    def series(name: str) -> list[tuple[float, float]]:
        points = [(row["step"], row[name]) for row in rows if name in row and math.isfinite(row[name])]
        return points[:: max(1, len(points) // 300)]

    accuracies = {name: series(f"{name}_accuracy") for name in ("validation", "batch")}
    drawn = [
        charts.lines(accuracies, x="step", y="accuracy", percent=True),
        charts.lines({"loss": series("loss")}, x="step", y="loss", log=True),
    ]
    return Section("Learning curves", charts=kept) if (kept := [picture for picture in drawn if picture]) else None


def _images(distilled: DistilledSet, before: np.ndarray | None, picture: Path) -> Section:
    representations = distilled.origin.labels_are == "representations"
    classes = distilled.class_index if representations else shown_class(distilled.labels, distilled.class_index)
    groups = np.unique(classes)
    per_class = max(1, MOST_IMAGES // len(groups))
    shown = np.concatenate([np.flatnonzero(classes == c)[:per_class] for c in groups])[:MOST_IMAGES]
    images = []
    for index in shown:
        sources = [_png(distilled.images[index])]
        if before is not None:
            sources.insert(0, _png(before[index]))
        images.append(Image(sources, heading_of(int(classes[index]), distilled.class_names)))
    legend = "above, what it started from; below, the learned image" if before is not None else "learned"
    whole = None
    if before is None and (content := _picture(picture)) is not None:
        data = base64.b64encode(content).decode()
        whole = Picture(f"data:image/png;base64,{data}", "before and after", "Before and after")
    notes = [f"{len(shown)} of {len(distilled.images)} images; {legend}."]
    return Section("Images", notes=notes, images=images, whole=whole)


def _labels(distilled: DistilledSet) -> Section:
    labels, own = distilled.labels, distilled.class_index
    if distilled.origin.labels_are == "representations":
        note = f"Representations of {labels.shape[1]} dimensions; their entries are no classes."
        return Section("Labels", notes=[note])
    of_other_data = int(own.max()) >= labels.shape[1]
    if not of_other_data and not are_learned(labels, own):
        return Section("Labels", notes=["One-hot, less their mean: not learned."])
    shown = shown_class(labels, own)
    order = np.argsort(shown, kind="stable")
    mean = [labels[own == c].mean(0).tolist() for c in np.unique(own)]
    rows = "class of the other data set" if of_other_data else "class"
    names = drawable(distilled.class_names)
    columns = [tick_of(number, names) for number in range(labels.shape[1])]
    kinds = [str(c) if of_other_data else tick_of(int(c), names) for c in np.unique(own)]
    drawn = [
        charts.heat(mean, rows=rows, columns="entry", row_names=kinds, column_names=columns, title="Mean by class")
    ]
    if len(mean) < len(order) <= 200:
        whole = labels[order].tolist()
        drawn.append(charts.heat(whole, rows="image", columns="entry", column_names=columns, title=f"All {len(order)}"))
    notes = []
    if not of_other_data:
        same = float(np.mean(labels.argmax(1) == own))
        notes = [f"{_percent(same)} of the labels are largest at the class that they started from."]
    return Section("Labels", notes=notes, charts=drawn)


def _evaluation(evaluation: Any, title: str) -> Section:
    kernels = list(
        dict.fromkeys(result["kernel"] for evaluated in evaluation["sets"] for result in evaluated["kernels"])
    )
    rows = []
    for evaluated in evaluation["sets"]:
        known = {result["kernel"]: _percent(result["test_accuracy"]) for result in evaluated["kernels"]}
        rows.append([evaluated["set"], *[known.get(kernel, "") for kernel in kernels]])
    return Section(title, head=["set", *kernels], rows=rows)


def _transfer(transfer: Any, title: str) -> Section:
    results = transfer["results"]
    rows = [
        [
            result["trained_on"] + (f", step {result['checkpoint']}" if result["trained_on"] == "distilled" else ""),
            result["network"],
            result["loss"],
            str(result["images"]),
            _score(result["test_accuracy"], result["test_spread"]),
            f"{result['choice']['factor']:g}, {result['choice']['l2']:g}",
        ]
        for result in results
    ]
    curves = {row[0]: list(enumerate(np.mean(result["curve"], axis=0), start=1)) for row, result in zip(rows, results)}
    chart = charts.lines(curves, x="evaluation", y="validation accuracy", percent=True)
    head = ["trained on", "network", "loss", "images", "test", "factor, L2"]
    return Section(title, head=head, rows=rows, charts=[chart] if chart else [])


def _comparison(comparison: Any, title: str) -> Section:
    rows = []
    for cell in comparison["cells"]:
        rows.append([cell["candidate"], cell["network"], cell["protocol"], _score(cell["mean"], cell["deviation"])])
    return Section(title, head=["set", "network", "protocol", "test"], rows=rows)


def _pretraining(pretraining: Any, title: str) -> Section:
    rows = []
    for cell in pretraining["cells"]:
        score = _score(cell["mean"], cell["deviation"])
        rows.append([cell["candidate"], cell["network"], cell["how"], cell["start"], score])
    labelled = "all" if pretraining["labelled"] is None else pretraining["labelled"]
    note = (
        f"Networks pre-trained on the set and used on {pretraining['data']}; probes and fine-tuning: {labelled} labels."
    )
    return Section(title, notes=[note], head=["set", "network", "protocol", "pre-trained on", "test"], rows=rows)


def _analysis(analysis: Any, title: str) -> Section:
    kinds = ("distilled", "natural")
    head = ["", "distilled", f"natural: {analysis['natural_images']}"]
    names = list(analysis["distilled"]["dimensions"])
    words = {"intrinsic": "intrinsic dimension (Two-NN)", "linear": "linear dimension (PCA, 90 %)"}
    words |= {f"{name}_ntk": f"{text}, NTK features" for name, text in list(words.items())}
    rows = [["test accuracy", *[_percent(analysis[kind]["accuracy"]) for kind in kinds]]]
    rows += [[words[name], *[f"{analysis[kind]['dimensions'][name]:.1f}" for kind in kinds]] for name in names]
    if "features" in analysis:
        distances = [f"{analysis[kind]['frechet_distance']:.2f}" for kind in kinds]
        rows.append([f"Frechet distance, {analysis['features']}", *distances])
    rows.append(["nearest natural image is of its class", _percent(analysis["nearest_natural"]["own_class"]), ""])
    bands = {kind: [band["accuracy"] for band in analysis[kind]["bands"]] for kind in kinds}
    ranges = [f"{band['first'] + 1}–{band['last']}" for band in analysis["distilled"]["bands"]]
    kept = {kind: [(float(f), a) for f, a in analysis[kind]["subsampled"].items()] for kind in kinds}
    drawn = [
        charts.bars(bands, ranges, y="test accuracy", title="Accuracy by bands of eigenvalues, largest first"),
        charts.lines(
            kept, x="fraction of the images kept", y="test accuracy", percent=True, title="Accuracy of random subsets"
        ),
    ]
    if analysis["dimensions"]:
        for name in names:
            points = [(row["step"], row[name]) for row in analysis["dimensions"]]
            drawn.append(charts.lines({name: points}, x="step", y="dimension", title=words[name]))
    notes = [f"Kernel: {analysis['kernel']}."]
    return Section(title, notes=notes, head=head, rows=rows, charts=[picture for picture in drawn if picture])


def _png(image: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.rint(255 * displayed(image)).astype(np.uint8)).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _found(run: Path, pattern: str) -> list[Path]:
    """Return the files of a run's folder that match; what a link brings from elsewhere is left out, with a warning."""
    inside = []
    for path in sorted(run.glob(pattern)):
        if path.resolve().is_relative_to(run.resolve()):
            inside.append(path)
        else:
            LOGGER.warning("%s is a link out of the run's folder and is left out", path)
    return inside


def _picture(path: Path) -> bytes | None:
    """Return the bytes of a run's picture; None, with a warning, where the file is something else than a PNG.

    The page holds the file's bytes, and is handed on: a run from elsewhere could have a link to any file of the user's
    in its place.
    """
    try:
        if path.is_symlink():
            raise ValueError("it is a link")
        with open_regular(path) as file:
            content = file.read(LARGEST_PICTURE + 1)
        if len(content) > LARGEST_PICTURE:
            raise ValueError(f"it has more than {LARGEST_PICTURE >> 20} MiB")
        with picture_file.opened(io.BytesIO(content), ["PNG"]) as picture:
            picture.verify()
    except FileNotFoundError:
        return None
    except Exception as error:  # what Pillow raises on damaged files is no closed list
        reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")
        LOGGER.warning("%s is no picture that kip drew (%s) and is left out", path, reason)
        return None
    return content


def _before(run: Path, distilled: DistilledSet) -> np.ndarray | None:
    """Return the images that the run started from, in pixels, if the run has them and they fit its set."""
    try:
        before = sets.load(run / folder.INITIAL).images
    except KipError:
        return None
    return before if before.shape == distilled.images.shape else None


def _result(path: Path) -> dict[str, Any] | None:
    """Return what a run reached, once it has ended; None, with a warning, where its file is damaged."""
    return read_object(path, ("paper_test_accuracy", "steps", "seconds"))


def _of_file(path: Path, section: Callable[[Any, str], Section], title: str) -> Section | None:
    """Return a section of the results that a command saved; None where they are not what it saves."""
    content = read_object(path)
    if not content:
        return None
    try:
        return section(content, title)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        LOGGER.warning("%s is not what kip writes (%r) and is left out", path, error)
        return None


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


def _score(mean: float, deviation: float) -> str:
    return f"{100 * mean:.2f} ± {100 * deviation:.2f} %"
