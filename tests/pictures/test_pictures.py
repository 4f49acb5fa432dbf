"""Pictures: they decode, say what they show, and take whatever a run can give them."""

import csv
import io

import numpy as np
import pytest
from PIL import Image

from helpers.figures import words
from helpers.interpreter import printed
from kip.config import value
from kip.errors import OutputError, ShapeError
from kip.evaluate import comparison
from kip.pictures import comparison as tables
from kip.pictures.appearance import are_learned, displayed, prototypes, shown_class
from kip.pictures.canvas import power_labels
from kip.pictures.curves import save_curves
from kip.pictures.dots import save_dots
from kip.pictures.images import save_images


@value
class Published:
    source: str = "A paper, Table 7, the best row"
    accuracy: float = 0.467
    spread: float | None = 0.004


def distilled(*, classes=10, per_class=1, size=8, channels=1, learned=False):
    """Return images, labels and classes of a made-up distilled set."""
    generator = np.random.default_rng(0)
    class_index = np.repeat(np.arange(classes), per_class)
    images = generator.normal(0.5, 0.5, (len(class_index), size, size, channels)).astype(np.float32)
    labels = (np.eye(classes)[class_index] - 1 / classes).astype(np.float32)
    if learned:
        labels += generator.normal(0, 0.2, labels.shape).astype(np.float32)
    return images, labels, class_index


def pixels(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize(
    ("size", "channels", "learned"),
    [(8, 1, False), (8, 1, True), (28, 1, False), (32, 3, True), (96, 3, False), (200, 3, True)],
)
def test_every_image_size_gives_a_picture_of_sensible_size(tmp_path, size, channels, learned):
    images, labels, class_index = distilled(size=size, channels=channels, learned=learned)
    save_images(tmp_path / "images.png", images, labels, class_index, before=images / 2, title="A set")
    height, width, _ = pixels(tmp_path / "images.png").shape
    assert 500 <= width <= 5000
    assert 2 * size <= height <= 3000


@pytest.mark.parametrize(
    ("classes", "per_class", "shown"),
    [
        (10, 50, 100),
        (2, 1, 2),
        (1, 1, 1),
        *(pytest.param(*c, marks=pytest.mark.slow) for c in ((100, 10, 200), (100, 1, 100), (14, 3, 42))),
    ],
)
def test_the_picture_says_how_many_of_how_many_images_it_shows(tmp_path, figures, classes, per_class, shown):
    images, labels, class_index = distilled(classes=classes, per_class=per_class, size=16, channels=3, learned=True)
    save_images(tmp_path / "images.png", images, labels, class_index, before=images * 0.5, title="A set")
    (text,) = [text for text in words(figures[0]) if "pixels" in text]
    text = text.replace("\n", " ")
    total = classes * per_class
    assert text.startswith(f"{shown} of {total} images shown" if shown < total else f"{total} images of 16 x 16")
    captions = [text for text in words(figures[0]) if "→" in text and "class" not in text]
    assert len(captions) == shown
    assert max(pixels(tmp_path / "images.png").shape) < 4000


def test_an_image_is_captioned_with_its_class_and_the_top_class_of_its_label(tmp_path, figures):
    images, labels, class_index = distilled(classes=3)
    labels[1] = [0.7, 0.25, 0.05]
    save_images(tmp_path / "images.png", images, labels, class_index, title="Learned digits")
    texts = words(figures[0])
    assert {"Learned digits", "class 0", "class 1", "class 2", "1→0 0.70", "2→2 0.67", "learned labels"} <= set(texts)


def test_representations_are_a_panel_and_name_no_class(tmp_path, figures):
    images, _, class_index = distilled(classes=3)
    entries = np.random.default_rng(1).normal(size=(3, 40)).astype(np.float32)
    save_images(tmp_path / "images.png", images, entries, class_index, representations=True, title="KRR-ST")
    texts = set(words(figures[0]))
    assert {"0", "1", "2", "representations", "entry of the representation"} <= texts
    assert not any("→" in text for text in texts)


def test_one_hot_labels_get_no_label_panel(tmp_path, figures):
    images, labels, class_index = distilled(classes=3)
    for path, y in (("centred.png", labels), ("one_hot.png", labels + np.float32(1 / 3))):
        save_images(tmp_path / path, images, y, class_index, title="A set")
    for figure in figures:
        assert len(figure.axes) == 1
        assert "learned labels" not in words(figure)
        assert {"0", "1", "2"} <= set(words(figure))
    save_images(tmp_path / "learned.png", images, labels * 2, class_index, title="A set")
    assert len(figures[-1].axes) == 3  # the page, the matrix, its colour bar


def test_the_label_panel_is_the_label_matrix_sorted_by_class(tmp_path, figures):
    images, labels, class_index = distilled(classes=4, per_class=3, learned=True)
    shuffled = np.random.default_rng(1).permutation(12)
    save_images(tmp_path / "a.png", images[shuffled], labels[shuffled], class_index[shuffled], title="A set")
    (drawn,) = [ax for ax in figures[0].axes if ax.get_title(loc="left") == "learned labels"]
    matrix = np.asarray(drawn.images[0].get_array())
    assert matrix.shape == (4, 12)
    assert drawn.images[0].get_clim() == pytest.approx((-np.abs(labels).max(), np.abs(labels).max()))
    order = shuffled[np.argsort(class_index[shuffled], kind="stable")]
    np.testing.assert_array_equal(matrix, labels[order].T.astype(np.float64))


def test_the_images_of_before_stand_above_single_learned_ones_and_beside_many(tmp_path, figures):
    for per_class in (1, 4):
        images, labels, class_index = distilled(per_class=per_class)
        save_images(tmp_path / "images.png", images, labels, class_index, before=images * 0.1, title="A set")
    above, beside = (" ".join(words(figure)).replace("\n", " ") for figure in figures)
    assert "above: what it started from" in above
    assert "natural, before" not in above
    assert "natural, before" in beside
    assert "learned, after" in beside


def test_unchanged_images_are_drawn_once(tmp_path, figures):
    images, labels, class_index = distilled(per_class=2, learned=True)
    save_images(tmp_path / "with.png", images, labels, class_index, before=images.copy(), title="Label Solve")
    save_images(tmp_path / "without.png", images, labels, class_index, title="Label Solve")
    assert any("unchanged" in text for text in words(figures[0]))
    assert pixels(tmp_path / "with.png").shape[1] == pixels(tmp_path / "without.png").shape[1]


def test_pixels_of_the_picture_are_those_of_the_images(tmp_path):
    flat = np.stack([np.full((8, 8, 3), colour, np.float32) for colour in ([1, 0, 0], [0, 1, 0])])
    save_images(tmp_path / "a.png", flat, np.eye(2), np.arange(2), before=flat * 0 + 0.25, title="A set")
    drawn = pixels(tmp_path / "a.png").reshape(-1, 3)
    side = (100 // 8) * 8
    for colour, count in (([255, 0, 0], 1), ([0, 255, 0], 1), ([64, 64, 64], 2)):
        # Nearest-neighbour enlargement by a whole number: exact colour, exact area.
        assert np.sum(np.all(np.abs(drawn.astype(int) - colour) <= 1, axis=1)) == pytest.approx(
            count * side**2, rel=0.02
        )


def test_natural_images_are_displayed_as_they_are():
    natural = np.random.default_rng(0).random((8, 8, 3))
    np.testing.assert_allclose(displayed(natural), natural, atol=1e-12)


def test_grey_images_are_displayed_grey():
    shown = displayed(np.random.default_rng(0).random((8, 8, 1)))
    assert shown.shape == (8, 8, 3)
    assert np.ptp(shown, axis=2).max() == 0


def test_few_values_outside_are_clipped_and_many_lower_the_contrast():
    image = np.full((10, 10, 1), 0.25)
    image[0, 0] = 9.0
    np.testing.assert_allclose(displayed(image)[1:], 0.25)
    np.testing.assert_allclose(displayed(image)[0, 0], 1)
    ramp = np.linspace(-1.5, 2.5, 400).reshape(20, 20, 1)
    shown = displayed(ramp)
    assert shown.min() == 0
    assert shown.max() == 1
    assert len(np.unique(shown)) > 380  # clipping alone would leave 100
    assert np.all(np.diff(shown[..., 0].ravel()) >= 0)


def test_values_that_are_not_finite_are_drawn(tmp_path):
    image = np.full((4, 4, 1), 0.25)
    image[0, :3, 0] = np.nan, np.inf, -np.inf
    shown = displayed(image)
    np.testing.assert_allclose(shown[0, :, 0], [0.5, 1, 0, 0.25])
    assert np.isfinite(displayed(np.full((4, 4, 1), np.nan))).all()


def test_labels_are_learned_if_neither_one_hot_nor_centred():
    class_index = np.array([0, 2, 1])
    one_hot = np.eye(3)[class_index]
    assert not are_learned(one_hot, class_index)
    assert not are_learned((one_hot - 1 / 3).astype(np.float32), class_index)
    assert are_learned(one_hot - 1 / 3 + 1e-3, class_index)
    assert are_learned(one_hot, class_index[::-1])


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("images", {"images": np.zeros((3, 8, 8))}),
        ("images", {"images": np.zeros((3, 8, 8, 2))}),
        ("labels", {"labels": np.zeros((2, 3))}),
        ("class_index", {"class_index": np.array([0, 1, 3])}),
        ("class_index", {"class_index": np.array([0, 1])}),
        ("before", {"before": np.zeros((3, 8, 9, 1))}),
    ],
)
def test_shapes_that_disagree_are_refused_and_no_file_is_left(tmp_path, argument, change):
    given = {"images": np.zeros((3, 8, 8, 1)), "labels": np.eye(3), "class_index": np.arange(3), **change}
    with pytest.raises(ShapeError, match=argument):
        save_images(tmp_path / "a.png", **given, title="A set")
    assert list(tmp_path.iterdir()) == []


def rows(steps, every=50):
    """Return metrics such as a run writes."""
    metrics = [{"step": 0, "validation_accuracy": 0.1, "loss": None}]
    for step in range(1, steps + 1):
        metrics.append({"step": step, "loss": 1 / step, "batch_accuracy": 0.5, "condition": 1e4 * step, "seconds": 0.1})
        if step % every == 0:
            metrics.append({**metrics[-1], "validation_accuracy": 0.4 + 1e-4 * step})
    return metrics


def axis(figure, label):
    (only,) = [ax for ax in figure.axes if ax.get_ylabel().startswith(label)]
    return only


@pytest.mark.parametrize("steps", [1, 2, 150, 1000])
def test_curves_show_three_panels_over_steps(tmp_path, figures, steps):
    save_curves(tmp_path / "curves.png", rows(steps), reference=Published(), title="A run")
    figure = figures[0]
    assert "A run" in words(figure)
    assert [ax.get_ylabel().split(",")[0].split("\n")[0] for ax in figure.axes] == [
        "loss",
        "accuracy",
        "condition number",
    ]
    assert axis(figure, "loss").get_yscale() == axis(figure, "condition").get_yscale() == "log"
    assert axis(figure, "accuracy").get_yscale() == "linear"
    assert axis(figure, "loss").get_xscale() == ("symlog" if steps > 200 else "linear")
    low, high = axis(figure, "loss").get_xlim()
    assert low < 0 < steps < high
    assert pixels(tmp_path / "curves.png").shape[:2] > (500, 800)


def test_curves_draw_the_rows(tmp_path, figures):
    save_curves(tmp_path / "curves.png", rows(100), title="A run")
    loss, accuracy = axis(figures[0], "loss"), axis(figures[0], "accuracy")
    np.testing.assert_allclose(loss.lines[0].get_xydata(), [(step, 1 / step) for step in range(1, 101)])
    validation = next(line for line in accuracy.lines if line.get_label().startswith("validation"))
    np.testing.assert_allclose(validation.get_xydata(), [(0, 10), (50, 40.5), (100, 41)])
    assert validation.get_label() == "validation, best 41.0 % at step 100"


def test_the_reference_is_dashed_with_its_source(tmp_path, figures):
    save_curves(tmp_path / "curves.png", rows(60), reference=Published(), title="A run")
    (line,) = [line for line in axis(figures[0], "accuracy").lines if line.get_linestyle() == "--"]
    np.testing.assert_allclose(line.get_ydata(), 46.7)
    assert line.get_label() == "46.7 ± 0.4 %: A paper, Table 7, the best row"
    save_curves(tmp_path / "curves.png", rows(60), reference=Published(spread=None), title="A run")
    assert any(text.startswith("46.7 %: A paper") for text in words(figures[1]))


def test_label_solve_with_a_single_row_is_drawn(tmp_path, figures):
    row = {"step": 1, "loss": 0.03, "condition": 1e5, "seconds": 3.0, "validation_accuracy": 0.45}
    save_curves(tmp_path / "curves.png", [row], title="Label Solve")
    assert [len(ax.lines) for ax in figures[0].axes] == [1, 1, 1]
    assert all(ax.lines[0].get_marker() == "o" for ax in figures[0].axes)  # a line of one point is invisible
    assert list(figures[0].axes[-1].get_xticks()) == [1]


@pytest.mark.parametrize(
    ("metrics", "panels"),
    [
        ([], 1),
        ([{"step": 1}], 1),
        ([{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.4}], 1),
        ([{"step": 1, "validation_accuracy": 0.5}], 1),
        ([{"step": 1, "loss": float("nan"), "condition": float("inf")}, {"step": 2, "loss": 0.1}], 1),
        ([{"step": 1, "loss": 0.0}, {"step": 2, "loss": 1e-12, "condition": 3.0}], 2),
        ([{"loss": 0.1}, {"step": 3, "loss": 0.1}], 1),
    ],
)
def test_rows_without_some_values_are_drawn_without_a_warning(tmp_path, figures, recwarn, metrics, panels):
    save_curves(tmp_path / "curves.png", metrics, title="A run")
    assert len(figures[0].axes) == panels
    assert [str(warning.message) for warning in recwarn] == []
    for line in (line for ax in figures[0].axes for line in ax.lines):
        assert np.isfinite(line.get_xydata()).all()


def test_the_same_input_gives_the_same_bytes(tmp_path):
    images, labels, class_index = distilled(learned=True)
    written = []
    for name in ("first", "second"):
        save_images(tmp_path / f"{name}_images.png", images, labels, class_index, title="A set")
        save_curves(tmp_path / f"{name}_curves.png", rows(60), title="A run")
        written.append([(tmp_path / f"{name}_{kind}.png").read_bytes() for kind in ("images", "curves")])
    assert written[0] == written[1]


def test_the_users_matplotlib_is_neither_read_nor_changed(tmp_path):
    import matplotlib

    save_curves(tmp_path / "plain.png", rows(60), title="A run")
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 40, "figure.facecolor": "black"}):
        save_curves(tmp_path / "styled.png", rows(60), title="A run")
        assert matplotlib.rcParams["font.size"] == 40
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "styled.png").read_bytes()


def test_drawing_imports_no_pyplot_and_importing_no_matplotlib(tmp_path):
    program = (
        "import sys, kip.pictures.curves, kip.pictures.images\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"kip.pictures.curves.save_curves({str(tmp_path / 'a.png')!r}, [{{'step': 1, 'loss': 0.1}}], title='A run')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    printed(program)
    assert (tmp_path / "a.png").is_file()


def test_a_path_that_cannot_be_written_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        save_curves(tmp_path / "file" / "curves.png", rows(1), title="A run")


def test_prototypes_are_means_with_the_labels_as_weights(rng):
    images, labels = rng.random((3, 2, 2, 1)), np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0, 1.0, 0.0]])
    mixed = prototypes(images, labels)
    np.testing.assert_allclose(mixed[0], (images[0] + 0.5 * images[1]) / 1.5)
    np.testing.assert_allclose(mixed[1], (0.5 * images[1] + images[2]) / 1.5)
    np.testing.assert_array_equal(mixed[2], 0)
    with pytest.raises(ShapeError, match="probabilities"):
        prototypes(images, labels - 1 / 3)


def test_images_of_another_data_set_are_drawn_under_their_largest_label():
    labels = np.array([[0.1, 0.9], [0.8, 0.2]])
    np.testing.assert_array_equal(shown_class(labels, np.array([25, 0])), [1, 0])
    np.testing.assert_array_equal(shown_class(labels, np.array([1, 1])), [1, 1])


CELL = {"data": "mnist", "preprocess": "none", "network": "N", "protocol": "HL", "images_per_class": 1}
CELL |= {"deviation": 0.01, "set_bytes": 0, "seconds": 1.0, "accuracies": [0.5, 0.5], "batch": 1, "rate": 0.1}


def comparison_of(**accuracies):
    """Return the table of a comparison of sets that are called by their methods, of one image a class."""
    cells = [
        CELL | {"candidate": f"{name}_1 50%", "method": name, "mean": mean, "teachers": []}
        for name, mean in accuracies.items()
    ]
    sets = [
        {
            "name": cell["candidate"], "seconds": 5.0, "peak_memory_mib": None, "own_test_accuracy": None,
            **{name: cell[name] for name in ("data", "preprocess", "method", "images_per_class")},
        }
        for cell in cells
    ]  # fmt: skip
    return {"sets": sets, "cells": comparison.marked(cells), "teachers": [], "scores": []}


def test_what_is_not_above_random_images_is_marked_in_every_form():
    table = comparison_of(kip=0.6, random=0.5, dm=0.5, dc=0.2)
    assert [cell["above_random"] for cell in table["cells"]] == [True, None, False, False]
    text = tables.as_markdown(table)
    assert "| dc_1 50% | 1 | 20.00 ± 1.00 † |" in text
    assert "| kip_1 50% | 1 | 60.00 ± 1.00 |" in text
    assert "†: not better than random natural images of the same size." in text
    rows = list(csv.DictReader(io.StringIO(tables.as_csv(table))))
    assert [row["above_random"] for row in rows] == ["yes", "", "no", "no"]
    lines = tables.as_latex(table).splitlines()
    assert r"dc\_1 50\% & 1 & 20.00 $\pm$ 1.00$^\dagger$ &  & 0 & 5 &  " + r"\\" in lines
    assert lines[-1] == r"\end{tabular}"
    (panel,) = tables.panels(table)
    assert [line.name for line in panel.lines] == ["kip", "random", "dm", "dc"], "the best first"
    assert [line.dots["1 image a class"].hollow for line in panel.lines] == [False, False, True, True]
    assert panel.references == {"1 image a class": 50.0}
    unmarked = comparison_of(kip=0.6, dm=0.5)
    assert "†" not in tables.as_markdown(unmarked)


def test_dots_are_drawn_into_files_of_each_format(tmp_path):
    table = comparison_of(kip=0.6, random=0.5, dc=0.2)
    png, svg, pdf = paths = [tmp_path / f"table.{ending}" for ending in ("png", "svg", "pdf")]
    save_dots(paths, tables.panels(table), title="Accuracy")
    assert pixels(png).min() < 100
    assert svg.read_bytes().startswith(b"<?xml")
    assert pdf.read_bytes().startswith(b"%PDF")
    before = png.read_bytes(), pdf.read_bytes()
    save_dots(paths, tables.panels(table), title="Accuracy")
    assert (png.read_bytes(), pdf.read_bytes()) == before
    save_dots([tmp_path / "empty.png"], [], title="nothing")
    assert pixels(tmp_path / "empty.png").size


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.3, 0.8, ["0.3", "0.4", "0.5", "0.6", "0.7", "0.8"]),
        (0.3, 3.0, ["0.5", "10⁰", "2"]),
        (1e-3, 1, ["10⁻³", "10⁻²", "10⁻¹", "10⁰"]),
    ],
)
def test_a_logarithmic_axis_has_numbers_however_short_it_is(low, high, labels):
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.subplots()
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    power_labels(axes.yaxis)
    figure.draw_without_rendering()
    ticks = [tick for tick in [*axes.yaxis.get_major_ticks(), *axes.yaxis.get_minor_ticks()] if tick.label1.get_text()]
    shown = sorted((tick.get_loc(), tick.label1.get_text()) for tick in ticks if low <= tick.get_loc() <= high * 1.0001)
    assert [text for _, text in shown] == labels


def test_accuracy_is_drawn_against_each_number_that_was_varied(tmp_path):
    table = comparison_of(kip=0.6, random=0.5)
    names = [f"mine steps={steps} rate={rate} kind=a" for steps in (100, 20) for rate in (0.1, 0.3)]
    (_, drawn) = table["cells"]
    for place, name in enumerate(names):
        table["sets"].append({**table["sets"][0], "name": name})
        table["cells"].append({**drawn, "candidate": name, "method": "kip", "mean": 0.1 * place})
    found = tables.over_numbers(table)
    assert set(found) == {"steps", "rate"}
    (panel,) = found["steps"]
    assert (panel.x, panel.y) == ("steps", "test accuracy, %")
    assert {name: [point[:2] for point in points] for name, points in panel.series.items()} == {
        "mine rate=0.1 kind=a": [(20.0, 20.0), (100.0, 0.0)],
        "mine rate=0.3 kind=a": [(20.0, pytest.approx(30.0)), (100.0, 10.0)],
    }
    assert tables.over_numbers(comparison_of(kip=0.6)) == {}
    written = tables.write(table, tmp_path)
    assert [path.name for path in written[-6:]] == [
        f"comparison-{field}.{ending}" for field in ("steps", "rate") for ending in ("png", "svg", "pdf")
    ]
    assert all(path.is_file() for path in written)
