"""The engine's form on a GPU: the faster right one, chosen once, kept, and part of what a checkpoint must share."""

import itertools
import json

import numpy as np
import pytest

from kip import placement
from kip.blocks import Blocks, choice
from kip.kernels import RBF, Architecture

KERNEL, SHAPE = Architecture("ConvVec", 1), (2, 2, 1)


def giving(value, gradient):
    """A form of the kernel, which gives the same whatever comes."""
    return lambda x, z, bar: (np.full(bar.shape, value), np.full(z.shape, gradient))


def clock(*seconds):
    """A clock by which the runs that are timed take so long, one after the other."""
    ticks = itertools.accumulate(itertools.chain.from_iterable((0.0, took) for took in seconds))
    return lambda: next(ticks)


def taking(engine, pallas):
    return clock(*[engine] * choice.REPEATS, *[pallas] * choice.REPEATS)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KIP_CACHE_DIR", str(tmp_path))
    choice._on_this_gpu.cache_clear()
    yield tmp_path
    choice._on_this_gpu.cache_clear()


@pytest.mark.parametrize(("engine", "pallas", "form"), [(2.0, 1.0, "pallas"), (1.0, 2.0, "engine")])
def test_the_faster_form_is_taken(engine, pallas, form, caplog):
    caplog.set_level("INFO")
    runs = dict.fromkeys(choice.FORMS, giving(1.0, 1.0))
    assert choice.chosen(KERNEL, SHAPE, runs, taking(engine, pallas)) == form
    assert f"ConvVec1 is computed in the form '{form}'" in caplog.text


@pytest.mark.parametrize("wrong", [(1 + 2e-5, 1.0), (1.0, 1 + 2e-4), (np.nan, 1.0)])
def test_a_faster_form_whose_results_differ_is_not_taken(wrong, caplog):
    runs: dict[choice.Form, choice.Run] = {"engine": giving(1.0, 1.0), "pallas": giving(*wrong)}
    assert choice.chosen(KERNEL, SHAPE, runs, taking(2.0, 1.0)) == "engine"
    assert "differ" in caplog.text


def test_a_form_that_fails_is_not_taken(caplog):
    def failing(x, z, bar):
        raise RuntimeError("no such instruction")

    runs: dict[choice.Form, choice.Run] = {"engine": giving(1.0, 1.0), "pallas": failing}
    assert choice.chosen(KERNEL, SHAPE, runs, taking(2.0, 1.0)) == "engine"
    assert "no such instruction" in caplog.text


def test_the_choice_is_kept_for_the_device_and_the_versions(monkeypatch, cache):
    runs = dict.fromkeys(choice.FORMS, giving(1.0, 1.0))
    assert choice.kept(KERNEL, SHAPE, runs, taking(2.0, 1.0)) == "pallas"
    assert choice.kept(KERNEL, SHAPE, runs, taking(1.0, 2.0)) == "pallas"
    monkeypatch.setattr(choice.machine, "versions", lambda: {"device": "another"})
    assert choice.kept(KERNEL, SHAPE, runs, taking(1.0, 2.0)) == "engine"
    assert choice.kept(KERNEL, (4, 4, 1), runs, taking(2.0, 1.0)) == "pallas"
    assert {json.loads(path.read_text())["form"] for path in (cache / "forms").iterdir()} == set(choice.FORMS)


@pytest.mark.parametrize("text", ["", "[]", '{"form": "shell"}'])
def test_a_damaged_file_of_a_choice_is_measured_anew(text, cache):
    runs = dict.fromkeys(choice.FORMS, giving(1.0, 1.0))
    choice.kept(KERNEL, SHAPE, runs, taking(2.0, 1.0))
    (path,) = (cache / "forms").iterdir()
    path.write_text(text)
    assert choice.kept(KERNEL, SHAPE, runs, taking(1.0, 2.0)) == "engine"


def test_a_folder_that_cannot_be_written_costs_only_that(cache, caplog):
    (cache / "forms").write_text("")
    runs = dict.fromkeys(choice.FORMS, giving(1.0, 1.0))
    assert choice.kept(KERNEL, SHAPE, runs, taking(2.0, 1.0)) == "pallas"
    assert "measured anew each time" in caplog.text


def test_auto_is_settled_on_a_gpu_alone(monkeypatch):
    monkeypatch.setattr(choice, "kept", lambda *arguments: "pallas")
    assert choice.settled(Blocks(), KERNEL, SHAPE) == "auto"
    assert choice.of_run(Blocks(), [KERNEL], SHAPE) == {}
    with placement.made_for("gpu"):
        assert choice.settled(Blocks(), KERNEL, SHAPE) == "pallas"
        assert choice.settled(Blocks(implementation="engine"), KERNEL, SHAPE) == "engine"
        assert choice.settled(Blocks(dtype="float64"), KERNEL, SHAPE) == "engine"
        assert choice.settled(Blocks(), Architecture("FC"), SHAPE) == "auto"
        assert choice.settled(Blocks(), RBF(), SHAPE) == "auto"
        assert choice.of_run(Blocks(), [KERNEL, RBF()], SHAPE) == {"forms": {"ConvVec1": "pallas"}}
        assert choice.of_run(Blocks(implementation="pallas"), [KERNEL], SHAPE) == {}
