"""`kip report`: a run as one HTML page that needs no network, no script and no other file, and fits a phone.

Everything that lies in the run's folder is shown: scores, learning curves, the images before and after, the label
matrix, and where they were made, `evaluation*.json`, `transfer*.json`, `protocols*.json`, `pretraining*.json` and
`analysis.json`. What is missing is left out.
"""

from __future__ import annotations

import base64
import io
import json
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from kip import charts, checkpoint, export
from kip.config import from_json
from kip.errors import ConfigError, KipError
from kip.experiment import Experiment
from kip.export import DistilledSet
from kip.files import atomic_write
from kip.report import are_learned, displayed

MOST_IMAGES = 100
"""Images that are shown; of larger sets, as many of each class."""
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
    if not (run / "config.json").is_file():
        raise ConfigError(f"{run} is not a run's folder", got="no config.json", remedy="`kip distill` makes one.")
    experiment = from_json(Experiment, (run / "config.json").read_text("utf-8"), source=str(run / "config.json"))
    distilled = export.load(run / "distilled.npz")
    sections: list[tuple[str, str]] = [
        ("Scores", _scores(experiment, distilled, _read(run / "result.json"))),
        ("Learning curves", _curves(run / "metrics.jsonl")),
        ("Images", _images(distilled, _before(run, distilled), run / "images.png")),
        ("Labels", _labels(distilled)),
        *[(f"Under other kernels: {p.stem}", _evaluation(_read(p))) for p in sorted(run.glob("evaluation*.json"))],
        *[(f"Networks trained on it: {p.stem}", _transfer(_read(p))) for p in sorted(run.glob("transfer*.json"))],
        *[(f"Protocols: {p.stem}", _protocols(_read(p))) for p in sorted(run.glob("protocols*.json"))],
        *[(f"Pre-training: {p.stem}", _pretraining(_read(p))) for p in sorted(run.glob("pretraining*.json"))],
        ("Analysis", _analysis(_read(run / "analysis.json"))),
        ("Configuration", f"<details><summary>Show</summary><pre>{_configuration(experiment)}</pre></details>"),
    ]
    title = f"{experiment.data.name}, {len(distilled.images)} images, {experiment.method.name}"
    body = "".join(f"<section><h2>{escape(name)}</h2>{html}</section>" for name, html in sections if html)
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><h1>{escape(title)}</h1>{body}</body></html>"
    )
    path = out or run / "report.html"
    atomic_write(path, lambda file: file.write(page.encode()))
    return path


def _scores(experiment: Experiment, distilled: DistilledSet, result: Any) -> str:
    about = distilled.metadata
    kernels = ", ".join(kernel.label for kernel in experiment.method.kernels)
    rows = [("kernels", kernels) if kernels else ("network", experiment.method.label)]
    rows += [("preprocessing", experiment.preprocess.kind), ("exported step", str(about["step"]))]
    test = about.get("test_accuracy")
    if result:
        rows.append(("natural images, test", _percent(result["initial_test_accuracy"])))
        rows.append(("paper's report, test", _percent(result["paper_test_accuracy"])))
        rows.append(("steps, seconds", f"{result['steps']}, {result['seconds']:.0f}"))
    if about.get("validation_accuracy") is not None:
        rows.append(("validation", _percent(about["validation_accuracy"])))
    if experiment.reference:
        rows.append(("published", str(experiment.reference)))
    how = "KRR" if kernels else "networks trained on the set"
    figure = "" if test is None else f'<p class="figure">{_percent(test)}</p><p class="note">test accuracy, {how}</p>'
    return figure + _table(["", ""], [list(row) for row in rows])


def _curves(path: Path) -> str:
    if not path.is_file():
        return ""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]

    def series(name: str) -> list[tuple[float, float]]:
        found = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), int | float)]
        return found[:: max(1, len(found) // 300)]

    accuracies = {name: series(f"{name}_accuracy") for name in ("validation", "batch")}
    pictures = [
        charts.lines(accuracies, x="step", y="accuracy", percent=True),
        charts.lines({"loss": series("loss")}, x="step", y="loss", log=True),
    ]
    return f'<div class="charts">{"".join(f"<div>{picture}</div>" for picture in pictures)}</div>'


def _images(distilled: DistilledSet, before: np.ndarray | None, picture: Path) -> str:
    per_class = max(1, MOST_IMAGES // distilled.labels.shape[1])
    by_class = [np.flatnonzero(distilled.class_index == c)[:per_class] for c in np.unique(distilled.class_index)]
    shown = np.concatenate(by_class)[:MOST_IMAGES]
    figures = []
    for index in shown:
        pictures = [_png(distilled.images[index])]
        if before is not None:
            pictures.insert(0, _png(before[index]))
        label = int(distilled.class_index[index])
        inner = "".join(f'<img alt="class {label}" src="{picture}">' for picture in pictures)
        figures.append(f"<figure>{inner}class {label}</figure>")
    what = "above, the natural image that it started from; below, the learned one" if before is not None else "learned"
    note = f"{len(shown)} of {len(distilled.images)} images; {what}."
    html = f'<p class="note">{note}</p><div class="images">{"".join(figures)}</div>'
    if before is None and picture.is_file():
        data = base64.b64encode(picture.read_bytes()).decode()
        whole = f'<div class="scroll"><img alt="before and after" src="data:image/png;base64,{data}"></div>'
        html += f"<details><summary>Before and after</summary>{whole}</details>"
    return html


def _labels(distilled: DistilledSet) -> str:
    if not are_learned(distilled.labels, distilled.class_index):
        return "<p>One-hot, less their mean: not learned.</p>"
    order = np.argsort(distilled.class_index, kind="stable")
    classes = distilled.labels.shape[1]
    mean = [distilled.labels[distilled.class_index == c].mean(0).tolist() for c in np.unique(distilled.class_index)]
    same = float(np.mean(distilled.labels.argmax(1) == distilled.class_index))
    parts = ["<div><p>Mean by class</p>" + charts.heat(mean, rows="class", columns="entry") + "</div>"]
    if len(order) <= 200:
        whole = charts.heat(distilled.labels[order].tolist(), rows="image", columns="entry")
        parts.append(f"<details><summary>All {len(order)} x {classes}</summary>{whole}</details>")
    note = f'<p class="note">{_percent(same)} of the labels are largest at the class that they started from.</p>'
    return note + f'<div class="charts">{"".join(parts)}</div>'


def _evaluation(found: Any) -> str:
    if not found:
        return ""
    kernels = list(dict.fromkeys(each["kernel"] for one in found["sets"] for each in one["kernels"]))
    rows = []
    for one in found["sets"]:
        known = {each["kernel"]: _percent(each["test_accuracy"]) for each in one["kernels"]}
        rows.append([one["set"], *[known.get(kernel, "") for kernel in kernels]])
    return _table(["set", *kernels], rows)


def _transfer(found: Any) -> str:
    if not found:
        return ""
    results = found["results"]
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


def _protocols(found: Any) -> str:
    if not found:
        return ""
    rows = []
    for cell in found["cells"]:
        rows.append([cell["candidate"], cell["network"], cell["protocol"], _score(cell["mean"], cell["deviation"])])
    return _table(["set", "network", "protocol", "test"], rows)


def _pretraining(found: Any) -> str:
    if not found:
        return ""
    rows = []
    for cell in found["cells"]:
        score = _score(cell["mean"], cell["deviation"])
        rows.append([cell["candidate"], cell["network"], cell["how"], cell["start"], score])
    labelled = "all" if found["labelled"] is None else found["labelled"]
    note = f"Networks pre-trained on the set and used on {found['data']}; probes and fine-tuning: {labelled} labels."
    head = ["set", "network", "protocol", "pre-trained on", "test"]
    return f'<p class="note">{escape(note)}</p>' + _table(head, rows)


def _analysis(found: Any) -> str:
    if not found:
        return ""
    kinds = ("distilled", "natural")
    head = ["", "distilled", f"natural: {found['natural_images']}"]
    names = list(found["distilled"]["dimensions"])
    words = {"intrinsic": "intrinsic dimension (Two-NN)", "linear": "linear dimension (PCA, 90 %)"}
    words |= {f"{name}_ntk": f"{text}, NTK features" for name, text in list(words.items())}
    rows = [["test accuracy", *[_percent(found[kind]["accuracy"]) for kind in kinds]]]
    rows += [[words[name], *[f"{found[kind]['dimensions'][name]:.1f}" for kind in kinds]] for name in names]
    rows.append(["nearest natural image is of its class", _percent(found["nearest_natural"]["own_class"]), ""])
    bands = {kind: [band["accuracy"] for band in found[kind]["bands"]] for kind in kinds}
    ranges = [f"{band['first'] + 1}–{band['last']}" for band in found["distilled"]["bands"]]
    kept = {kind: [(float(f), a) for f, a in found[kind]["subsampled"].items()] for kind in kinds}
    pictures = [
        "<p>Accuracy by bands of eigenvalues, largest first</p>" + charts.bars(bands, ranges, y="test accuracy"),
        "<p>Accuracy of random subsets</p>"
        + charts.lines(kept, x="fraction of the images kept", y="test accuracy", percent=True),
    ]
    if found["dimensions"]:
        for name in names:
            points = [(row["step"], row[name]) for row in found["dimensions"]]
            pictures.append(f"<p>{words[name]}</p>" + charts.lines({name: points}, x="step", y="dimension"))
    note = f'<p class="note">Kernel: {escape(found["kernel"])}.</p>'
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
    """Return the images of step 0 in pixels, if the run has them and the set alone says how to invert (no ZCA)."""
    about = distilled.metadata["preprocess"]
    if not {"mean", "std"} <= about.keys():
        return None
    try:
        state, _ = checkpoint.read(run / "checkpoints", 0)
    except KipError:
        return None
    return state.images * np.asarray(about["std"], np.float32) + np.asarray(about["mean"], np.float32)


def _read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


def _score(mean: float, deviation: float) -> str:
    return f"{100 * mean:.2f} ± {100 * deviation:.2f} %"


def _configuration(experiment: Experiment) -> str:
    return escape(json.dumps(experiment.to_dict(), indent=1))
