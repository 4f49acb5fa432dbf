"""Runs on sets that are read from the disk: the same sets come out as from memory, in bounded memory."""

import dataclasses
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import kip
from helpers.kinds import some
from kip import sets
from kip.data import folder
from kip.errors import DataError
from kip.methods.decoupled.crops import Crops
from kip.methods.decoupled.rded import RDED
from kip.methods.decoupled.squeeze import Squeeze
from kip.methods.selection import rules, scores, spaces
from kip.methods.selection.selection import Selection
from kip.networks import Network
from kip.runs import forecast
from kip.storage.images import Lazy
from kip.training.protocols import PROTOCOLS
from kip.training.records import Recording

NETWORK = Network("ConvNet-D3", width=4)
JUDGED = {"protocol": dataclasses.replace(PROTOCOLS["HL"], epochs=2), "test_networks": 1}
RECORDING = Recording(epochs=2, batch=16)
METHODS = {
    "random": Selection(2, rule=rules.Random(), network=NETWORK, **JUDGED),
    "herding": Selection(2, rule=rules.Herding(spaces.Features(RECORDING)), network=NETWORK, **JUDGED),
    "k_centers": Selection(2, rule=rules.KCenters(), network=NETWORK, **JUDGED),
    "el2n": Selection(2, rule=rules.Hardest(scores.EL2N(RECORDING)), network=NETWORK, **JUDGED),
    "rded": RDED(
        2,
        network=Network("ConvNet-D3", width=4, norm="batch"),
        squeeze=Squeeze(epochs=2, batch=16),
        crops=Crops(6, 2),
        evaluation_network=NETWORK,
        **JUDGED,
    ),
    "kip": kip.KIP(2, kernels=(kip.Architecture("FC", 1),), target_batch=15, steps=3),
    "label_solve": kip.LabelSolve(2, kernel=kip.Architecture("FC", 1)),
}
LONG, SLOW = ("herding", "rded", "kip"), pytest.mark.slow
LIMIT_MIB = 450


def draw(to, count, side=8):
    """Write pictures of three classes: a ramp along one axis or both, and noise."""
    random, ramp = np.random.default_rng(0), np.linspace(0, 120, side)
    for number, name in enumerate(("across", "both", "down")):
        (to / name).mkdir(parents=True)
        for index in range(count):
            pixels = random.integers(0, 100, (side, side, 3)).astype(float)
            pixels += (ramp * (number < 2))[None, :, None] + (ramp * (number > 0))[:, None, None]
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(to / name / f"{index}.png")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A folder of pictures, and in another folder an .npz file of the same name with the same pixels."""
    made = tmp_path_factory.mktemp("sets")
    draw(made / "folder" / "shapes" / "train", 24)
    draw(made / "folder" / "shapes" / "test", 6)
    contents = folder.read(made / "folder" / "shapes")
    (x_train, y_train), (x_test, y_test), names = contents.train, some(contents.test), contents.class_names
    assert isinstance(x_train, np.ndarray)
    (made / "array").mkdir()
    np.savez(
        made / "array" / "shapes.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test, class_names=names
    )
    return made


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW if name in LONG else ()) for name in METHODS])
@pytest.mark.slow
def test_the_set_from_a_folder_on_disk_is_the_set_from_an_array_in_memory(shapes, tmp_path, monkeypatch, name):
    made = {}
    for source, limit in (("array", "256"), ("folder", "0")):
        monkeypatch.setenv("KIP_CACHE_DIR", str(tmp_path / source / "cache"))  # neither finds what the other made
        monkeypatch.setenv("KIP_IN_MEMORY_MIB", limit)
        config = kip.Experiment(METHODS[name], data=kip.Data("shapes", validation=9, mirror_keeps_class=True))
        kip.run(config, tmp_path / source / "run", data_dir=shapes / source, show_progress=False)
        made[source] = sets.load(tmp_path / source / "run" / "distilled.npz")
    ours, theirs = made["folder"], made["array"]
    for field in ("images", "images_preprocessed", "labels", "class_index", "image_statistics"):
        np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field), err_msg=field)
    assert ours.metadata["train_sha256"] == theirs.metadata["train_sha256"]
    assert ours.metadata.get("indices") == theirs.metadata.get("indices")


DEEP = Network("ConvNet-D5", width=4)
RESIDUAL = Network("ResNet10", width=4)
SQUEEZED = {"network": RESIDUAL, "squeeze": Squeeze(epochs=1, batch=8), "evaluation_network": DEEP, **JUDGED}
LARGE = {
    "dm": kip.DM(1, network=DEEP, real_batch=4, steps=2, **JUDGED),
    "sre2l": kip.SRe2L(1, iterations=2, **SQUEEZED),
    "rded": RDED(1, crops=Crops(6, 2, factor=2), **SQUEEZED),
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side"), [("dm", 128), ("sre2l", 224), ("rded", 224)])
def test_finite_methods_take_large_pictures(tmp_path, monkeypatch, name, side):
    monkeypatch.setenv("KIP_CACHE_DIR", str(tmp_path / "cache"))
    draw(tmp_path / "shapes" / "train", 8, side)
    draw(tmp_path / "shapes" / "test", 2, side)
    config = kip.Experiment(LARGE[name], data=kip.Data("shapes", validation=6, mirror_keeps_class=True))
    result = kip.run(config, tmp_path / "run", data_dir=tmp_path, show_progress=False)
    made = sets.load(tmp_path / "run" / "distilled.npz")
    assert made.images.shape == (3, side, side, 3)
    assert np.isfinite(made.images_preprocessed).all()
    assert 0 <= result.test_accuracy <= 1


def test_what_takes_too_much_at_once_is_refused_with_a_remedy(shapes, monkeypatch):
    from kip import data
    from kip.runs.setup import check_data

    monkeypatch.setenv("KIP_IN_MEMORY_MIB", "0")
    dataset = data.load(kip.Data("shapes", validation=9), shapes / "folder")
    assert isinstance(dataset.train.images, Lazy)
    values = 8 * 8 * 3
    monkeypatch.setattr(forecast, "memory_bytes", lambda: 4 * values * 63 - 1)
    small = kip.KIP(2, kernels=(kip.Architecture("FC", 1),), target_batch=15, steps=3)
    check_data(kip.Experiment(small), dataset)
    with pytest.raises(DataError, match=r"takes all 63 train images.*at once.*method\.target_batch"):
        check_data(kip.Experiment(dataclasses.replace(small, target_batch=None)), dataset)
    monkeypatch.setattr(forecast, "memory_bytes", lambda: 12 * values * 21 - 1)
    check_data(kip.Experiment(METHODS["herding"]), dataset)
    with pytest.raises(DataError, match=r"takes 21 images of a class.*at once.*method\.rule\.candidates"):
        check_data(kip.Experiment(METHODS["k_centers"]), dataset)
    check_data(kip.Experiment(Selection(2, rule=rules.KCenters(candidates=20), network=NETWORK, **JUDGED)), dataset)


CONFIG = """
import dataclasses
import kip
from kip.methods.decoupled.crops import Crops
from kip.methods.decoupled.rded import RDED
from kip.methods.decoupled.squeeze import Squeeze
from kip.methods.selection import rules, spaces
from kip.methods.selection.selection import Selection
from kip.networks import Network
from kip.training.protocols import PROTOCOLS
from kip.training.records import Recording

network = Network("FC1", width=16)
judged = {"protocol": dataclasses.replace(PROTOCOLS["HL"], epochs=2), "test_networks": 1}
features = spaces.Features(Recording(epochs=1, augment="none"))
selection = Selection(1, rule=rules.Herding(features), network=network, **judged)
rded = RDED(
    1, network=network, squeeze=Squeeze(epochs=1), crops=Crops(20, 2),
    evaluation_network=network, **judged,
)
config = kip.Experiment(METHOD, data=kip.Data("many", validation=200))
"""


def peak_mib(made, tmp_path, method):
    """Return the peak memory of `kip distill` on the folder `many`, as the run itself notes it."""
    config = tmp_path / f"{method}.py"
    config.write_text(CONFIG.replace("METHOD", method))
    out = tmp_path / f"run-{method}-{made.name}"
    environment = {**os.environ, "KIP_CACHE_DIR": str(tmp_path / f"cache-{made.name}"), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "kip.cli", "distill", str(config), "--out", str(out), "--data-dir", str(made)]
    began = time.monotonic()
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500)
    assert ended.returncode == 0, ended.stderr[-3000:]
    peak = json.loads((out / "result.json").read_text())["peak_memory_mib"]
    print(f"{method}, {made.name}: {peak} MiB, {time.monotonic() - began:.0f} seconds")
    return peak


def many_pictures(to, count, side=96):
    """Write a folder of pictures in ten classes: JPEGs of 20 kinds for each class, the others their copies."""
    random = np.random.default_rng(0)
    for label in range(10):
        of_class = to / f"class{label}"
        of_class.mkdir(parents=True)
        for index in range(count // 10):
            path = of_class / f"{index}.jpg"
            if index < 20:
                coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3)).astype(np.uint8))
                coarse.resize((side, side), Image.Resampling.BICUBIC).save(path)
            else:
                os.link(of_class / f"{index % 20}.jpg", path)


@pytest.mark.slow
def test_8000_pictures_of_96_pixels_take_half_of_what_they_take_as_numbers(tmp_path):
    """As float32 the set takes 844 MiB, and 211 MiB as bytes."""
    many_pictures(tmp_path / "large" / "many", 8000)
    many_pictures(tmp_path / "small" / "many", 1000)
    for method in ("selection", "rded"):
        own = peak_mib(tmp_path / "small", tmp_path, method)
        assert peak_mib(tmp_path / "large", tmp_path, method) - own < LIMIT_MIB
