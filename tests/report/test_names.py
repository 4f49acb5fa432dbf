"""Names of classes in pictures: no mathematics, letters that fonts lack, names beside numbers on every axis."""

import base64
import logging
import warnings

import numpy as np
import pytest

from helpers.figures import words
from kip.pictures import canvas, charts, curves
from kip.pictures.appearance import drawable, heading_of, tick_of
from kip.pictures.canvas import cut, is_legible, legible
from kip.pictures.images import save_images
from kip.pictures.panels import Panel, Point, save_panels

LAST = "Last Resort High-Efficiency"
HOSTILE = "a$b_{$"
CAT = "\N{CJK UNIFIED IDEOGRAPH-732B}"


@pytest.fixture
def no_other_font(monkeypatch):
    """No font but matplotlib's own is installed."""
    from matplotlib import font_manager

    own = [entry for entry in font_manager.fontManager.ttflist if entry.name in (canvas.OWN_FONT, LAST)]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    for function in (canvas._fonts, canvas._family_with, canvas._tell_of_fonts):
        function.cache_clear()
    yield
    monkeypatch.undo()
    for function in (canvas._fonts, canvas._family_with, canvas._tell_of_fonts):
        function.cache_clear()


def a_set(classes=3, per_class=2):
    generator = np.random.default_rng(0)
    index = np.repeat(np.arange(classes), per_class)
    labels = np.eye(classes)[index] + generator.normal(0, 0.2, (len(index), classes))
    return generator.random((len(index), 8, 8, 1)), labels, index


@pytest.mark.parametrize(
    "name",
    [HOSTILE, "$\\frac{$", "50 % $x^2$", *(pytest.param(n, marks=pytest.mark.slow) for n in ("$", "\\$", "{}_^&#"))],
)
def test_a_name_is_no_mathematics_in_any_picture(tmp_path, figures, name):
    pictures, labels, index = a_set()
    save_images(tmp_path / "a.png", pictures, labels, index, class_names=[name, "b", "c"], title=name)
    assert name in words(figures[0])
    assert f"0 {name}" in words(figures[0])
    curves.save_curves(tmp_path / "b.png", [{"step": 0, "loss": 1.0}, {"step": 1, "loss": 1e-9}], title=name)
    save_panels(tmp_path / "c.png", [Panel(name, name, name, {name: [Point(1, 2), Point(900, 3)]})], title=name)
    for figure in figures:
        assert name in words(figure)
    charts.bars({name: [0.5, 0.2]}, [name, "b"], y="accuracy")
    charts.heat([[1.0, 2.0]], rows=name, columns=name, row_names=[name], column_names=[name, "b"])
    charts.lines({name: [(0, 1.0), (1, 1e-9)]}, x=name, y="loss", log=True)


def test_powers_of_ten_are_plain_text(tmp_path, figures):
    rows = [{"step": step, "loss": 10.0**-step} for step in range(9)]
    curves.save_curves(tmp_path / "b.png", rows, title="a run")
    assert "10\N{SUPERSCRIPT MINUS}\N{SUPERSCRIPT SIX}" in words(figures[0])
    assert not [text for text in words(figures[0]) if "$" in text]


def test_letters_that_no_font_has_become_the_number_of_the_class_without_a_warning(
    tmp_path, figures, no_other_font, caplog
):
    caplog.set_level(logging.WARNING)
    pictures, labels, index = a_set()
    names = [CAT, "dog", "\N{GRINNING FACE}\N{CJK UNIFIED IDEOGRAPH-72AC}"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(2):
            save_images(tmp_path / f"{number}.png", pictures, labels, index, class_names=names, title=f"set {CAT}")
        charts.bars({"test": [0.5, 0.2]}, [CAT, "b"], y="accuracy")
    headings = [text for text in words(figures[0]) if text in ("class 0", "class 1", "class 2", "dog", CAT)]
    assert headings == ["class 0", "dog", "class 2"]
    assert "set \N{REPLACEMENT CHARACTER}" in words(figures[0])
    assert {"0", "1 dog", "2"} <= set(words(figures[0]))
    assert len([message for message in caplog.messages if "no installed font" in message]) == 1


def test_an_installed_font_draws_what_matplotlibs_own_lacks(no_other_font, monkeypatch):
    fonts = [(canvas.OWN_FONT, frozenset(map(ord, "ab"))), ("Some CJK", frozenset([ord(CAT), ord("a")]))]
    monkeypatch.setattr(canvas, "_fonts", lambda own: fonts)
    canvas._family_with.cache_clear()
    assert is_legible(f"ab{CAT}")
    assert legible("abz") == "ab\N{REPLACEMENT CHARACTER}"
    import matplotlib

    before = list(matplotlib.rcParams["font.family"])
    with canvas.drawing("ab", CAT):
        assert matplotlib.rcParams["font.family"] == [canvas.OWN_FONT, "Some CJK"]
    with canvas.drawing("ab"):
        assert matplotlib.rcParams["font.family"] == [canvas.OWN_FONT]
    assert matplotlib.rcParams["font.family"] == before


def test_the_label_matrix_names_its_classes_on_both_axes(tmp_path, figures):
    pictures, labels, index = a_set(per_class=40)
    save_images(tmp_path / "a.png", pictures, labels, index, class_names=["cat", "dog", "owl"], title="pets")
    matrix = next(ax for ax in figures[0].axes if ax.get_ylabel() == "class of the label entry")
    for axis in (matrix.xaxis, matrix.yaxis):
        assert [label.get_text() for label in axis.get_ticklabels()] == ["0 cat", "1 dog", "2 owl"]


def test_names_that_have_no_room_below_leave_the_numbers(tmp_path, figures):
    pictures, labels, index = a_set(classes=10, per_class=1)
    names = [f"a long name of class {number}" for number in range(10)]
    save_images(tmp_path / "a.png", pictures, labels, index, class_names=names, title="pets")
    matrix = next(ax for ax in figures[0].axes if ax.get_ylabel() == "class of the label entry")
    assert [label.get_text() for label in matrix.get_xticklabels()] == [str(number) for number in range(10)]
    assert matrix.get_yticklabels()[3].get_text() == "3 a long name o…"


def test_matrices_of_the_page_have_names_or_whole_numbers():
    matrix = [[1.0, -2.0, 0.5], [0.0, 0.5, 0.1]]
    named = charts.heat(
        matrix, rows="class", columns="entry", row_names=["0 cat", "1 dog"], column_names=["a", "b", "c"]
    )
    assert named != charts.heat(matrix, rows="class", columns="entry")
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        from matplotlib.figure import Figure

        save = Figure.savefig
        patch.setattr(Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k)))
        charts.heat(matrix, rows="class", columns="entry")
        charts.heat(matrix, rows="class", columns="entry", row_names=["0 cat", "1 dog"], column_names=["a", "b", "c"])
    plain, names = map(words, drawn)
    assert "0.5" not in [text for text in plain if text not in words(drawn[0].axes[1])]
    assert {"0 cat", "1 dog", "a", "b", "c"} <= set(names)
    assert base64.b64decode(named.source.partition(",")[2]).startswith(b"<?xml")


def test_names_are_cut_by_their_width():
    assert cut("aeroplane", 9) == "aeroplane"
    assert cut("aeroplane", 8) == "aeropla…"
    assert cut(CAT * 6, 8) == CAT * 3 + "…"
    assert heading_of(0, [CAT * 6], most=8) == CAT * 3 + "…"
    assert (tick_of(3, ["a"]), tick_of(0, ["a"]), tick_of(0, ["7"])) == ("3", "0 a", "0")
    assert drawable(["cat"]) == ["cat"]
