"""The engine's form on a GPU: the faster right one, chosen once, kept, and part of what a checkpoint must share."""

import itertools
import json

import numpy as np
import pytest

from kip import placement
from kip.blocks import Blocks, KernelBlocks, choice
from kip.errors import ConfigError
from kip.kernels import RBF, Architecture, Implementation, tile_memory

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
    caches = (choice._on_this_gpu, choice._fault_on_this_gpu, choice._fits)
    for one in caches:
        one.cache_clear()
    yield tmp_path
    for one in caches:
        one.cache_clear()


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


MYRTLE, PICTURES = Architecture("Myrtle"), (32, 32, 3)
"""A kernel whose smallest tile by the form for GPUs takes 2.7 GiB."""


def test_a_form_whose_smallest_tile_exceeds_the_memory_is_not_taken(monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr(choice, "kept", lambda *arguments: "pallas")
    least = choice._least_mib(MYRTLE, PICTURES)
    assert 2048 < least < 4096
    with placement.made_for("gpu"):
        assert choice.settled(Blocks(memory_mib=least - 1), MYRTLE, PICTURES) == "engine"
        assert f"needs blocks.memory_mib of {least}" in caplog.text
        assert choice.settled(Blocks(memory_mib=least), MYRTLE, PICTURES) == "pallas"
        with pytest.raises(ConfigError, match=rf"Set blocks\.memory_mib to {least}, or blocks\.implementation"):
            choice.settled(Blocks(implementation="pallas"), MYRTLE, PICTURES)
        assert choice.settled(Blocks(least, implementation="pallas"), MYRTLE, PICTURES) == "pallas"


@pytest.mark.parametrize("form", choice.FORMS)
@pytest.mark.parametrize("name", ["ConvNet", "ConvNet3", "ConvVec", "Myrtle"])
@pytest.mark.parametrize("memory", [200, 1024, 3000, 20_000])
@pytest.mark.parametrize(("support", "target"), [(1, 1), (10, 4), (100, 33), (500, 2000)])
def test_planned_tiles_stay_within_the_memory_on_a_gpu(form, name, memory, support, target):
    """As far as compilers say what a tile takes: see `kip.kernels.memory`."""
    kernel = Architecture(name)
    if form == "pallas" and memory < choice._least_mib(kernel, PICTURES):
        pytest.skip("refused, see above")
    blocks = KernelBlocks(Blocks(memory, implementation=form))
    images = np.zeros((max(support, target), *PICTURES), np.float32)
    with placement.made_for("gpu"):
        size = blocks._plan_of(kernel, images[:support], target).size
        side = blocks.whole(kernel, images[:support]).size.side
        rows, columns = blocks.whole(kernel, images[:support], images[:target]).size[:2]
        of = tile_memory(kernel, PICTURES, implementation=form)
    for tile in ((size.rows, size.columns), (size.side, size.side), (side, side), (rows, columns)):
        assert of.of(*tile) <= memory << 20
        assert of.most is None or tile[0] * tile[1] <= of.most


def test_a_resumed_run_takes_the_form_that_it_began_with(monkeypatch):
    """Timing may choose another one each time, and a run is not continued in it."""

    def measured(*arguments):
        raise AssertionError("measured anew")

    monkeypatch.setattr(choice, "kept", measured)
    monkeypatch.setattr(choice, "_fault_on_this_gpu", lambda *arguments: "")
    for form in choice.FORMS:
        before: dict[str, Implementation] = {"ConvVec1": form}
        with placement.made_for("gpu"):
            assert choice.of_run(Blocks(), [KERNEL], SHAPE, before) == {"forms": before}
            blocks = KernelBlocks()
            blocks.continue_in(before)
            assert blocks._implementation(KERNEL, np.zeros((1, *SHAPE))) == form
            explicit = Blocks(implementation="engine" if form == "pallas" else "pallas")
            assert choice.of_run(explicit, [KERNEL], SHAPE, before) == {}


def test_a_form_of_before_that_is_wrong_here_is_refused(monkeypatch):
    monkeypatch.setattr(choice, "_fault_on_this_gpu", lambda *arguments: "gives values that differ by 2.0e-03")
    with placement.made_for("gpu"), pytest.raises(ConfigError, match=r"which gives values that differ by 2\.0e-03"):
        choice.of_run(Blocks(), [KERNEL], SHAPE, {"ConvVec1": "pallas"})


def test_the_form_that_a_worker_is_told_has_to_be_right_there(monkeypatch):
    assert choice.fault(KERNEL, SHAPE, "engine") == ""
    assert choice.fault(RBF(), SHAPE, "pallas") == ""
    assert choice.fault(KERNEL, SHAPE, "pallas") == "needs a GPU, and this is a CPU"
    runs = {"engine": giving(1.0, 1.0), "pallas": giving(1.0, 1.1)}
    monkeypatch.setattr(choice, "_run_of", lambda kernel, form: runs[form])
    with placement.made_for("gpu"):
        assert choice.fault(KERNEL, SHAPE, "pallas") == "gives gradients that differ by 1.0e-01"
        choice._fault_on_this_gpu.cache_clear()
        runs["pallas"] = giving(1.0, 1.0)
        assert choice.fault(KERNEL, SHAPE, "pallas") == ""
        assert choice.fault(Architecture("FC"), SHAPE, "pallas") == "computes convolutional networks alone"
