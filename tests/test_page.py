"""The report page: self-contained, complete, and readable without what was not made."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from kip import cli, page
from kip.errors import ConfigError
from kip.experiment import Experiment
from kip.kernels.architecture import Architecture
from kip.methods.kernel.kip import KIP
from kip.report import charts
from kip.runs import loop as train


class Reader(HTMLParser):
    """Collects tags, what they point to, and the text; checks that tags are closed."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.tags, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "data", "srcset")]
        if tag not in ("meta", "img", "line", "rect", "circle", "polyline", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("line", "rect", "circle", "polyline"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(path):
    reader = Reader()
    reader.feed(path.read_text())
    assert reader.open == []
    return reader, " ".join(reader.text)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "digits"
    method = KIP(images_per_class=2, target_batch=300, steps=20, kernels=(Architecture("FC", 1),))
    train.run(Experiment(method=method, checkpoint_every=10), folder, show_progress=False)
    return folder


def test_the_page_of_a_bare_run_needs_nothing_else(run):
    reader, text = read(page.write(run))
    assert reader.links
    assert all(link.startswith("data:image/png;base64,") for link in reader.links)
    assert "script" not in reader.tags
    assert "url(" not in (run / "report.html").read_text()
    assert "viewport" in (run / "report.html").read_text()
    assert len(reader.links) == 40  # before and after
    for words in ("digits, 20 images", "test accuracy", "Learning curves", "class 9"):
        assert words in text
    for words in ("Analysis", "Protocols", "Networks trained"):
        assert words not in text


@pytest.mark.slow
def test_the_page_shows_what_the_other_commands_wrote(run, tmp_path):
    small, network = ["--seeds", "1"], "FC1 width=8"
    grid = ["--steps", "5", "--factors", "1", "--l2", "0", "--evaluations", "2", "--baseline", "natural"]
    assert (
        cli.main(["transfer", str(run), "--network", network, *small, *grid, "--out", str(run / "transfer.json")]) == 0
    )
    assert (
        cli.main(
            [
                "compare",
                str(run),
                "--networks",
                network,
                *small,
                "--epochs",
                "1",
                "--out",
                str(run / "comparison"),
            ]
        )
        == 0
    )
    more = ["--checkpoints", "0", "10", "20", "--repeats", "2", "--out", str(run / "analysis.json")]
    more += ["--features", network, "--feature-steps", "20"]
    assert cli.main(["analyze", str(run), *more]) == 0
    assert cli.main(["report", str(run), "--out", str(tmp_path / "page.html")]) == 0
    _, text = read(tmp_path / "page.html")
    transfer = json.loads((run / "transfer.json").read_text())
    assert f"{100 * transfer['test_accuracy']:.2f} ± 0.00 %" in text
    analysis = json.loads((run / "analysis.json").read_text())
    assert analysis["natural_images"] == "those it started from"
    assert [row["step"] for row in analysis["dimensions"]] == [0, 10, 20]
    assert analysis["dimensions"][0]["linear"] == analysis["natural"]["dimensions"]["linear"]
    distances = [analysis[kind]["frechet_distance"] for kind in ("distilled", "natural")]
    assert all(distance > 0 for distance in distances)
    assert f"{distances[0]:.2f} {distances[1]:.2f}" in text
    for words in ("Protocols: comparison", "intrinsic dimension (Two-NN)", "bands of eigenvalues", "random subsets"):
        assert words in text


def test_the_page_shows_a_table_of_sets_and_kernels(run, tmp_path, capsys):
    sets = [str(run / "distilled.npz"), str(tmp_path / "other.npz")]
    Path(sets[1]).write_bytes(Path(sets[0]).read_bytes())
    out = run / "evaluation.json"
    assert cli.main(["evaluate", *sets, "--kernel", "FC1", "RBF", "--out", str(out)]) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [
        ["digits", "FC1"], ["digits", "RBF"], ["other", "FC1"], ["other", "RBF"],
    ]  # fmt: skip
    _, text = read(page.write(run, tmp_path / "page.html"))
    evaluation = json.loads(out.read_text())
    out.unlink()
    assert [evaluated["set"] for evaluated in evaluation["sets"]] == ["digits", "other"]
    assert evaluation["sets"][0]["kernels"] == evaluation["sets"][1]["kernels"]
    for words in ("Under other kernels: evaluation", f"{100 * evaluation['kernels'][1]['test_accuracy']:.2f} %"):
        assert words in text


def test_the_page_shows_pretraining(run, tmp_path):
    cell = {"candidate": "digits", "network": "FC1", "how": "probe", "start": "none", "mean": 0.5, "deviation": 0.1}
    written = {"data": "mnist", "labelled": None, "cells": [{**cell, "accuracies": [0.4, 0.6]}]}
    path = run / "pretraining_mnist.json"
    path.write_text(json.dumps(written))
    _, text = read(page.write(run, tmp_path / "page.html"))
    path.unlink()
    for words in ("Pre-training: pretraining_mnist", "used on mnist", "all labels", "50.00 ± 10.00 %"):
        assert words in text


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="not a run's folder"):
        page.write(tmp_path)


def test_a_line_goes_through_its_points_in_order():
    drawn = charts.lines({"a": [(0, 1.0), (1, 3.0), (2, float("nan")), (3, 2.0)]}, x="x", y="y")
    points = [tuple(map(float, pair.split(","))) for pair in drawn.split('points="')[1].split('"')[0].split()]
    assert len(points) == 3  # NaN is left out
    assert points[0][0] < points[1][0] < points[2][0]
    assert points[0][1] > points[2][1] > points[1][1]  # pixels grow downwards
    assert charts.lines({"a": []}, x="x", y="y") == "<p>No values yet.</p>"


def test_bars_are_as_high_as_their_values_and_names_are_escaped():
    drawn = charts.bars({"a": [0.2, 0.4], "b": [0.1, 0.0]}, ["<one>", "two"], y="y")
    heights = [float(part.split('"')[0]) for part in drawn.split('height="')[1:]]
    assert heights[0] == pytest.approx(2 * heights[1], abs=0.2)  # by group, and in it by series
    assert heights[2] == pytest.approx(2 * heights[0], abs=0.2)
    assert heights[3] == 0
    assert "<one>" not in drawn
    assert "&lt;one&gt;" in drawn


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.31, 0.97), (-3, 12000), (5, 5)])
def test_ticks_are_round_and_inside(low, high):
    axis = charts._Axis(low, high, 0, 100)
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 7
    assert all(axis.low - 1e-9 <= tick <= axis.high + 1e-9 for tick in ticks)


@pytest.mark.parametrize(
    ("low", "high", "written"),
    [
        (1e-3, 10, ["0.001", "0.01", "0.1", "1", "10"]),
        (0.03, 0.6, ["0.05", "0.1", "0.2", "0.5"]),
        (0.014, 0.033, ["0.015", "0.02", "0.025", "0.03"]),
    ],
)
def test_a_logarithmic_axis_has_round_numbers(low, high, written):
    drawn = charts.lines({"a": [(0, low), (1, high)]}, x="x", y="y", log=True)
    labels = [part.split("<")[0] for part in drawn.split('text-anchor="end">')[1:]]
    assert labels == written
