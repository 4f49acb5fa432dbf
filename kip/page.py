"""`kip report`: a run as one HTML page that needs no network, no script and no other file, and fits a phone.

Everything that lies in the run's folder is shown: scores, learning curves, the images before and after, the label
matrix, and where they were made, `evaluation*.json`, `transfer*.json`, `comparison*/comparison.json`,
`pretraining*.json` and `analysis.json`. What is missing is left out.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import math
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from kip import export
from kip.errors import KipError
from kip.export import DistilledSet, Origin
from kip.files import atomic_write
from kip.judges import KernelJudge
from kip.metrics import is_number, read_object, read_rows
from kip.report import charts
from kip.report.pictures import are_learned, displayed, shown_class
from kip.runs import folder

LOGGER = logging.getLogger(__name__)
COMPARISONS = "comparison*/comparison.json"
MOST_IMAGES = 100
"""The most images that are shown; of larger sets, each class shows as many."""
STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:60rem;padding:1rem}
h1{font-size:1.4rem;margin:.3rem 0}
h2{font-size:1.1rem;margin:1.6rem 0 .4rem;border-top:1px solid #8886;padding-top:.8rem}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));gap:1rem}
svg{width:100%;height:auto}svg text{font-size:10px;fill:currentColor}
.grid{stroke:#8884}.axis{stroke:currentColor}.cell{stroke:#8883}
.legend{margin:0;font-size:.85rem}.legend span{margin-right:1rem}
.legend i{display:inline-block;width:.8em;height:.8em;margin-right:.3em}
.images{display:grid;grid-template-columns:repeat(auto-fill,minmax(4.2rem,1fr));gap:.5rem}
.images figure{margin:0;text-align:center;font-size:.75rem}
.images img{width:100%;image-rendering:pixelated;display:block}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem}
td,th{padding:.25rem .6rem;text-align:right;border-bottom:1px solid #8884}
td:first-child,th:first-child{text-align:left}.number{white-space:nowrap}pre{overflow-x:auto;font-size:.75rem}
.figure{font-size:2rem;font-weight:600;margin:0}.note{color:#888;font-size:.85rem;margin:.2rem 0}
"""


def write(run: Path, out: Path | None = None) -> Path:
    """Write the page of a run; return its path.

    Args:
        run: the run's folder.
        out: the file; None: RUN/report.html.

    Raises:
        ConfigError: if `run` is no run.
        DataError: if it has no distilled set, or one that cannot be read.
        OutputError: if the page cannot be written.
    """
    folder.check(run)
    distilled = export.load(run / folder.DISTILLED)
    origin = distilled.origin
    sections: list[tuple[str, str]] = [
        ("Scores", _scores(distilled, _result(run / folder.RESULT))),
        ("Learning curves", _curves(run / folder.METRICS)),
        ("Images", _images(distilled, _before(run, distilled), run / "images.png")),
        ("Labels", _labels(distilled)),
        *[(f"Under other kernels: {p.stem}", _of_file(p, _evaluation)) for p in sorted(run.glob("evaluation*.json"))],
        *[(f"Networks trained on it: {p.stem}", _of_file(p, _transfer)) for p in sorted(run.glob("transfer*.json"))],
        *[(f"Protocols: {p.parent.name}", _of_file(p, _comparison)) for p in sorted(run.glob(COMPARISONS))],
        *[(f"Pre-training: {p.stem}", _of_file(p, _pretraining)) for p in sorted(run.glob("pretraining*.json"))],
        ("Analysis", _of_file(run / "analysis.json", _analysis)),
        ("Configuration", f"<details><summary>Show</summary><pre>{_configuration(origin)}</pre></details>"),
    ]
    title = f"{origin.data.name}, {len(distilled.images)} images, {origin.method}"
    body = "".join(f"<section><h2>{escape(name)}</h2>{html}</section>" for name, html in sections if html)
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><h1>{escape(title)}</h1>{body}</body></html>"
    )
    path = out or run / "report.html"
    atomic_write(path, lambda file: file.write(page.encode()))
    return path


def _scores(distilled: DistilledSet, result: Any) -> str:
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
            rows.append((name, _percent(result["paper_test_accuracy"])))
        rows.append(("steps, seconds", f"{result['steps']}, {result['seconds']:.0f}"))
    if about.get("validation_accuracy") is not None:
        rows.append(("validation", _percent(about["validation_accuracy"])))
    if origin.reference:
        rows.append(("published", str(origin.reference)))
    how = "KRR" if kernels else "networks trained on the set"
    figure = "" if test is None else f'<p class="figure">{_percent(test)}</p><p class="note">test accuracy, {how}</p>'
    return figure + _table(["", ""], [list(row) for row in rows])


def _curves(path: Path) -> str:
    rows = read_rows(path)
    if not rows:
        return ""

    def series(name: str) -> list[tuple[float, float]]:
        points = [(row["step"], row[name]) for row in rows if name in row and math.isfinite(row[name])]
        return points[:: max(1, len(points) // 300)]

    accuracies = {name: series(f"{name}_accuracy") for name in ("validation", "batch")}
    pictures = [
        charts.lines(accuracies, x="step", y="accuracy", percent=True),
        charts.lines({"loss": series("loss")}, x="step", y="loss", log=True),
    ]
    return f'<div class="charts">{"".join(f"<div>{picture}</div>" for picture in pictures)}</div>'


def _images(distilled: DistilledSet, before: np.ndarray | None, picture: Path) -> str:
    representations = distilled.origin.labels_are == "representations"
    classes = distilled.class_index if representations else shown_class(distilled.labels, distilled.class_index)
    groups = np.unique(classes)
    per_class = max(1, MOST_IMAGES // len(groups))
    shown = np.concatenate([np.flatnonzero(classes == c)[:per_class] for c in groups])[:MOST_IMAGES]
    figures = []
    for index in shown:
        pictures = [_png(distilled.images[index])]
        if before is not None:
            pictures.insert(0, _png(before[index]))
        label = int(classes[index])
        inner = "".join(f'<img alt="class {label}" src="{picture}">' for picture in pictures)
        figures.append(f"<figure>{inner}class {label}</figure>")
    legend = (
        "above, the natural image that it started from; below, the learned one" if before is not None else "learned"
    )
    note = f"{len(shown)} of {len(distilled.images)} images; {legend}."
    html = f'<p class="note">{note}</p><div class="images">{"".join(figures)}</div>'
    if before is None and picture.is_file():
        data = base64.b64encode(picture.read_bytes()).decode()
        whole = f'<div class="scroll"><img alt="before and after" src="data:image/png;base64,{data}"></div>'
        html += f"<details><summary>Before and after</summary>{whole}</details>"
    return html


def _labels(distilled: DistilledSet) -> str:
    labels, own = distilled.labels, distilled.class_index
    if distilled.origin.labels_are == "representations":
        return f"<p>Representations of {labels.shape[1]} dimensions; their entries are no classes.</p>"
    of_other_data = int(own.max()) >= labels.shape[1]
    if not of_other_data and not are_learned(labels, own):
        return "<p>One-hot, less their mean: not learned.</p>"
    shown = shown_class(labels, own)
    order = np.argsort(shown, kind="stable")
    mean = [labels[own == c].mean(0).tolist() for c in np.unique(own)]
    rows = "class of the other data set" if of_other_data else "class"
    parts = ["<div><p>Mean by class</p>" + charts.heat(mean, rows=rows, columns="entry") + "</div>"]
    if len(order) <= 200:
        whole = charts.heat(labels[order].tolist(), rows="image", columns="entry")
        parts.append(f"<details><summary>All {len(order)} x {labels.shape[1]}</summary>{whole}</details>")
    note = ""
    if not of_other_data:
        same = float(np.mean(labels.argmax(1) == own))
        note = f'<p class="note">{_percent(same)} of the labels are largest at the class that they started from.</p>'
    return note + f'<div class="charts">{"".join(parts)}</div>'


def _evaluation(evaluation: Any) -> str:
    if not evaluation:
        return ""
    kernels = list(
        dict.fromkeys(result["kernel"] for evaluated in evaluation["sets"] for result in evaluated["kernels"])
    )
    rows = []
    for evaluated in evaluation["sets"]:
        known = {result["kernel"]: _percent(result["test_accuracy"]) for result in evaluated["kernels"]}
        rows.append([evaluated["set"], *[known.get(kernel, "") for kernel in kernels]])
    return _table(["set", *kernels], rows)


def _transfer(transfer: Any) -> str:
    if not transfer:
        return ""
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
    return _table(head, rows) + f'<div class="charts"><div>{chart}</div></div>'


def _comparison(comparison: Any) -> str:
    if not comparison:
        return ""
    rows = []
    for cell in comparison["cells"]:
        rows.append([cell["candidate"], cell["network"], cell["protocol"], _score(cell["mean"], cell["deviation"])])
    return _table(["set", "network", "protocol", "test"], rows)


def _pretraining(pretraining: Any) -> str:
    if not pretraining:
        return ""
    rows = []
    for cell in pretraining["cells"]:
        score = _score(cell["mean"], cell["deviation"])
        rows.append([cell["candidate"], cell["network"], cell["how"], cell["start"], score])
    labelled = "all" if pretraining["labelled"] is None else pretraining["labelled"]
    note = (
        f"Networks pre-trained on the set and used on {pretraining['data']}; probes and fine-tuning: {labelled} labels."
    )
    head = ["set", "network", "protocol", "pre-trained on", "test"]
    return f'<p class="note">{escape(note)}</p>' + _table(head, rows)


def _analysis(analysis: Any) -> str:
    if not analysis:
        return ""
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
    pictures = [
        "<p>Accuracy by bands of eigenvalues, largest first</p>" + charts.bars(bands, ranges, y="test accuracy"),
        "<p>Accuracy of random subsets</p>"
        + charts.lines(kept, x="fraction of the images kept", y="test accuracy", percent=True),
    ]
    if analysis["dimensions"]:
        for name in names:
            points = [(row["step"], row[name]) for row in analysis["dimensions"]]
            pictures.append(f"<p>{words[name]}</p>" + charts.lines({name: points}, x="step", y="dimension"))
    note = f'<p class="note">Kernel: {escape(analysis["kernel"])}.</p>'
    return note + _table(head, rows) + f'<div class="charts">{"".join(f"<div>{p}</div>" for p in pictures)}</div>'


def _table(head: list[str], rows: list[list[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head) if any(head) else ""
    body = "".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in rows)
    first = f"<tr>{top}</tr>" if top else ""
    return f'<div class="scroll"><table>{first}{body}</table></div>'


def _cell(text: str) -> str:
    """Return a cell of a table; a mean and its deviation stay on one line."""
    return f'<td class="number">{escape(text)}</td>' if "±" in text else f"<td>{escape(text)}</td>"


def _png(image: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.rint(255 * displayed(image)).astype(np.uint8)).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _before(run: Path, distilled: DistilledSet) -> np.ndarray | None:
    """Return the images that the run started from, in pixels, if the run has them and they fit its set."""
    try:
        before = export.load(run / folder.INITIAL).images
    except KipError:
        return None
    return before if before.shape == distilled.images.shape else None


def _result(path: Path) -> dict[str, Any] | None:
    """Return what a run reached, once it has ended; None, with a warning, where its file is damaged."""
    return read_object(path, ("paper_test_accuracy", "steps", "seconds"))


def _of_file(path: Path, section: Callable[[Any], str]) -> str:
    """Return a section of the page from the results that a command saved; empty where they are not what it saves."""
    content = read_object(path)
    if content is None:
        return ""
    try:
        return section(content)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        LOGGER.warning("%s is not what kip writes (%r) and is left out", path, error)
        return ""


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


def _score(mean: float, deviation: float) -> str:
    return f"{100 * mean:.2f} ± {100 * deviation:.2f} %"


def _configuration(origin: Origin) -> str:
    return escape(json.dumps(origin.experiment, indent=1))
