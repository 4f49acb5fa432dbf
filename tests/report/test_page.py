"""The report page: self-contained, complete, and readable without what was not made."""

import base64
import functools
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

import kip
from helpers.kinds import some
from kip import cli, sets
from kip.errors import ConfigError
from kip.experiment import Experiment
from kip.kernels.architecture import Architecture
from kip.methods.kernel.kip import KIP
from kip.pictures import charts
from kip.report import page
from kip.runs import loop as train
from kip.storage.locks import sole_writer

pytestmark = pytest.mark.pictures


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


@pytest.mark.slow
def test_the_page_of_a_bare_run_needs_nothing_else(run):
    reader, text = read(page.write(run))
    assert reader.links
    pictures = [link for link in reader.links if link.startswith("data:image/")]
    assert all(link.startswith("data:") or (run / link).exists() for link in reader.links)
    assert "script" not in reader.tags
    assert "url(" not in (run / "report.html").read_text()
    assert "viewport" in (run / "report.html").read_text()
    assert sum(link.startswith("data:image/png") for link in pictures) == 40  # before and after
    assert sum(link.startswith("data:image/svg") for link in pictures) == 5  # by class, accuracy, loss, labels twice
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


@pytest.mark.slow
def test_the_page_shows_a_table_of_sets_and_kernels(run, tmp_path, capsys):
    sets = [str(run / "distilled.npz"), str(tmp_path / "other.npz")]
    Path(sets[1]).write_bytes(Path(sets[0]).read_bytes())
    out = run / "evaluation.json"
    assert cli.main(["evaluate", *sets, "--kernel", "FC1", "RBF", "--out", str(out)]) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [
        ["digits", "FC1"],
        ["digits", "RBF"],
        ["other", "FC1"],
        ["other", "RBF"],
    ]
    _, text = read(page.write(run, tmp_path / "page.html"))
    evaluation = json.loads(out.read_text())
    out.unlink()
    assert [evaluated["set"] for evaluated in evaluation["sets"]] == ["digits", "other"]
    assert evaluation["sets"][0]["kernels"] == evaluation["sets"][1]["kernels"]
    for words in ("Under other kernels: evaluation", f"{100 * evaluation['kernels'][1]['test_accuracy']:.2f} %"):
        assert words in text


@pytest.mark.slow
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


def svg_of(picture):
    head, _, data = picture.source.partition(",")
    assert head == "data:image/svg+xml;base64"
    return base64.b64decode(data).decode()


def test_a_chart_is_a_picture_of_its_own_and_the_same_each_time():
    draw = functools.partial(charts.lines, {"a": [(0, 1.0), (1, 3.0), (2, float("nan")), (3, 2.0)]}, x="x", y="loss")
    first, second = some(draw()), some(draw())
    assert first == second
    assert svg_of(first).startswith("<?xml")
    assert first.alt == "loss against x: a"
    assert draw() != charts.lines({"a": [(0, 1.0), (1, 3.0)]}, x="x", y="loss")


@pytest.mark.parametrize("points", [[], [(0, float("nan"))], [(0, -1.0)]])
def test_a_line_without_a_point_is_left_out(points):
    assert charts.lines({"a": points}, x="x", y="y", log=True) is None


def test_bars_and_matrices_are_drawn_with_their_names():
    bars = charts.bars({"a": [0.2, 0.4], "b": [0.1, 0.0]}, ["one", "two"], y="accuracy")
    assert bars.alt == "accuracy of one, two"
    heat = charts.heat([[1.0, -2.0], [0.0, 0.5]], rows="class", columns="entry", title="Mean")
    assert (heat.title, heat.alt) == ("Mean", "a matrix of class against entry")
    assert svg_of(bars) != svg_of(heat)


def test_what_a_set_says_of_itself_is_text_on_the_page(run, tmp_path):
    hostile = "<script>alert(1)</script>"
    out = Path(shutil.copytree(run, tmp_path / "run"))
    distilled = sets.load(out / "distilled.npz")
    distilled.metadata["class_names"] = [hostile] * 10
    distilled.metadata["experiment"]["data"]["name"] = hostile
    sets.save(out / "distilled.npz", distilled)
    reader, text = read(page.write(out))
    assert "script" not in reader.tags
    assert hostile in text


def test_the_page_says_which_run_it_is_and_links_to_its_files(run, tmp_path):
    reader, text = read(page.write(run))
    for words in ("run digits", "seed 0", f"kip {kip.__version__}", "Test accuracy by class", "largest memory"):
        assert words in text
    links = [link for link in reader.links if not link.startswith("data:")]
    assert "distilled.npz" in links
    assert all((run / link).exists() for link in links)
    reader, _ = read(page.write(run, tmp_path / "elsewhere.html"))
    assert all(link.startswith("data:") for link in reader.links), "elsewhere the links would lead nowhere"


def test_several_runs_stand_on_one_page(run, tmp_path, capsys):
    other = shutil.copytree(run, tmp_path / "other")
    out = tmp_path / "runs.html"
    assert cli.main(["report", str(run), str(other), "--out", str(out)]) == 0
    _, text = read(out)
    assert "run digits" in text
    assert "run other" in text
    assert cli.main(["report", str(run), str(other)]) == 2
    assert "expected a file, such as --out runs.html" in capsys.readouterr().err


def test_the_page_of_a_run_that_goes_on_loads_itself_again(run, tmp_path):
    out = Path(shutil.copytree(run, tmp_path / "run"))
    assert 'http-equiv="refresh"' not in page.write(out).read_text()
    with sole_writer(out):
        assert f'http-equiv="refresh" content="{page.REFRESH}"' in page.write(out).read_text()


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MEASURE = """
<!doctype html><body style="margin:0"><iframe id="page" style="border:0;width:{width}px;height:800px"></iframe>
<pre id="found">waiting</pre><script>
const frame = document.getElementById("page");
frame.onload = () => {{
  const inside = frame.contentDocument, wide = [];
  for (const element of inside.querySelectorAll("body *")) {{
    const scrolls = element.parentElement.closest(".scroll, pre");
    if (!scrolls && element.getBoundingClientRect().right > {width} + 0.5) wide.push(element.outerHTML.slice(0, 80));
  }}
  const broken = [...inside.images].filter(image => !image.naturalWidth).length;
  document.getElementById("found").textContent = JSON.stringify({{wide, broken, images: inside.images.length,
    scroll: inside.documentElement.scrollWidth}});
}};
frame.srcdoc = {html};
</script>
"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_screen_and_the_browser_has_no_complaint(run, tmp_path, width):
    html = json.dumps(page.write(run).read_text()).replace("</", "<\\/")
    measured = tmp_path / "measure.html"
    measured.write_text(MEASURE.format(width=width, html=html))
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
        f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=20000",
        f"--window-size={width + 100},900", "--dump-dom", measured.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(some(re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL))[1])
    assert found["images"] > 40
    assert found["broken"] == 0
    assert found["wide"] == []
    assert found["scroll"] <= width
    assert "CONSOLE" not in done.stderr


@pytest.fixture
def bare(run, tmp_path):
    """A copy of the run without its first images, so that the page takes images.png."""
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    (copy / "initial.npz").unlink()
    return copy


def embedded(run):
    """Return the pictures that stand in the page beside those of the set, as bytes."""
    reader, _ = read(page.write(run))
    pictures = [link.partition("base64,")[2] for link in reader.links if link.startswith("data:image/png")]
    return [base64.b64decode(picture) for picture in pictures]


def test_the_picture_of_a_run_is_embedded_where_it_is_one(bare):
    assert (bare / "images.png").read_bytes() in embedded(bare)


@pytest.mark.parametrize("kind", ["link", "picture behind a link", "text", "folder", "too large", "cut short"])
def test_nothing_but_a_picture_of_the_run_itself_is_embedded(bare, tmp_path, monkeypatch, caplog, kind):
    """A stranger's run linked to a key, and the page that was handed on held it."""
    key, picture = tmp_path / "id_ed25519", bare / "images.png"
    key.write_bytes(b"-----BEGIN OPENSSH PRIVATE KEY-----")
    content = picture.read_bytes()
    (tmp_path / "private.png").write_bytes(content)
    picture.unlink()
    if kind == "link":
        picture.symlink_to(key)
    elif kind == "picture behind a link":
        picture.symlink_to(tmp_path / "private.png")
    elif kind == "text":
        shutil.copy(key, picture)
    elif kind == "folder":
        picture.mkdir()
    elif kind == "too large":
        picture.write_bytes(content)
        monkeypatch.setattr(page, "LARGEST_PICTURE", 100)
    else:
        picture.write_bytes(content[:-500])
    pictures = embedded(bare)
    assert len(pictures) == 20
    assert content not in pictures
    assert base64.b64encode(key.read_bytes()).decode() not in (bare / "report.html").read_text()
    assert "images.png is no picture that kip drew" in caplog.text


def test_results_that_a_link_brings_from_elsewhere_are_left_out(bare, tmp_path, caplog):
    evaluation = {"sets": [{"set": "secret", "kernels": [{"kernel": "FC1", "test_accuracy": 0.5}]}]}
    (tmp_path / "private.json").write_text(json.dumps(evaluation))
    (bare / "evaluation.json").symlink_to(tmp_path / "private.json")
    assert "secret" not in page.write(bare).read_text()
    assert "a link out of the run's folder" in caplog.text
