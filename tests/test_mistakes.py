"""Fifty mistakes that people make, each with what it is answered: one voice, in one line, and never a traceback."""

import re

import numpy as np
import pytest

from kip import cli
from kip.data import tfds

TINY = """
import kip
method = kip.KIP(1, kernels=(kip.Architecture("FC", 1),), target_batch=60, steps=2)
config = kip.Experiment(method, checkpoint_every=2)
"""

MISTAKES = {
    # the command
    "a command that is none": (["distil", "tiny.py"], "Did you mean `kip distill`"),
    "an old spelling of a command": (["labelsolve", "tiny.py"], "Did you mean `kip label-solve`"),
    "an empty value": (["distill", "tiny.py", "--out", ""], "the argument after --out"),
    # the configuration
    "a config that is none": (["distill", "digits_convnett"], "Did you mean digits_convnet"),
    "a table without a row": (["distill", "table_1"], "table_1:ROW"),
    "a row that is none": (["distill", "table_1:cifar10_ipc1_kipp"], "Did you mean cifar10_ipc1_kip"),
    "a row of a config without rows": (["distill", "digits_convnet:one"], "a file without rows"),
    "a file that is missing": (["distill", "none.py"], "no file none.py"),
    "a file that does not run": (["distill", "broken.py"], "in broken.py: SyntaxError"),
    "a file without a config": (["distill", "empty.py"], "expected a file with `config = kip.Experiment"),
    "a .json that is none": (["distill", "broken.json"], "broken.json"),
    "a .json with an unknown key": (["distill", "unknown.json"], "unknown.json"),
    "a network's name in a .json": (["distill", "code.json"], "--stax"),
    # its values
    "no step": (["distill", "tiny.py", "--method.steps", "0"], "steps"),
    "no image": (["distill", "tiny.py", "--method.images-per-class", "0"], "images_per_class"),
    "a negative rate": (["distill", "tiny.py", "--method.learning-rate", "-1"], "learning_rate"),
    "more images than a class has": (["distill", "tiny.py", "--method.images-per-class", "500"], "larger than a class"),
    "a batch larger than the data": (["distill", "tiny.py", "--method.target-batch", "9999"], "larger than a class"),
    "no validation images": (["distill", "tiny.py", "--data.validation", "0"], "data.validation"),
    "too many validation images": (
        ["distill", "tiny.py", "--data.validation", "1400"],
        "validation split is too large",
    ),
    "a divisor that is none": (["distill", "tiny.py", "--data.shrink", "3"], "a divisor of both sides"),
    "images too small for the poolings": (["distill", "deep.py", "--data.shrink", "4"], "too small"),
    "AutoAugment of grey images": (["distill", "tiny.py", "--augment.policy", "autoaugment_cifar"], "3 channels"),
    # data
    "a data set that is none": (["natural", "minst"], "Did you mean mnist"),
    "a data folder that is missing": (["natural", "digits", "--data-dir", "nowhere"], "--data-dir; got nowhere"),
    "floats for pixels": (["natural", "floats", "--data-dir", "."], "Store pixels, before any normalisation"),
    "images as vectors": (["natural", "flat", "--data-dir", "."], "reshape flattened ones"),
    "channels first": (["natural", "first", "--data-dir", "."], "x.transpose(0, 2, 3, 1)"),
    "labels of another length": (["natural", "short", "--data-dir", "."], "another length than its images"),
    "classes from one": (["natural", "gap", "--data-dir", "."], "Renumber the classes from 0"),
    "a missing array": (["natural", "half", "--data-dir", "."], "lacks y_test"),
    "a text file for a data set": (["natural", "text", "--data-dir", "."], "expected a .npz archive"),
    "a folder of one class": (["natural", "single", "--data-dir", "."], "a folder of images for each class"),
    # sets
    "a set that is missing": (["evaluate", "none.npz"], "no distilled set at none.npz"),
    "a data set for a distilled one": (["evaluate", "floats.npz"], "lacks images"),
    "a kernel that is none": (["evaluate", "SET", "--kernel", "ConvNett"], "Did you mean ConvNet"),
    "a picture of another kind": (["show", "SET", "--out", "digits.jpg"], "a name ending in .png"),
    "results into a folder": (["evaluate", "SET", "--out", "."], "expected a file"),
    "a step that was not kept": (["export", "RUN", "--step", "77"], "77"),
    "a folder that is no run": (["export", "."], "is not a run's folder"),
    "no run to report on": (["report", "."], "is not a run's folder"),
    "no run to look at": (["status", "."], "is not a run's folder"),
    "a network that is none": (["transfer", "SET", "--network", "ResNet81"], "Did you mean ResNet18"),
    "a protocol that is none": (["compare", "SET", "--protocols", "XL"], "HL"),
    "a grid of nothing": (["compare", "SET", "--vary", "method.steps=1,2"], "a configuration among the sets"),
    "an import of nothing": (
        ["import", "none.pt", "--data", "digits", "--values", "pixels", "--out", "x.npz"],
        "none.pt",
    ),
    # where it runs
    "workers of one process": (["distill", "tiny.py", "--workers", "4"], "Add --executor zmq or --executor ray"),
    "a share beyond one": (["distill", "tiny.py", "--executor", "zmq", "--check-share", "2"], "expected 0 to 1"),
    "a worker without a key": (["worker", "127.0.0.1:1"], "key"),
    "an address without a port": (["worker", "localhost"], "HOST:PORT"),
    "another configuration into a run": (["distill", "tiny.py", "--seed", "1", "--out", "RUN"], "seed"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a run, a set, and files that are wrong in one way each."""
    here = tmp_path_factory.mktemp("mistakes")
    (here / "tiny.py").write_text(TINY)
    (here / "deep.py").write_text(TINY.replace('"FC", 1', '"Myrtle"'))
    (here / "broken.py").write_text("config = (")
    (here / "empty.py").write_text("x = 1")
    (here / "broken.json").write_text("{")
    assert cli.main(["distill", str(here / "tiny.py"), "--out", str(here / "run")]) == 0
    config = (here / "run" / "config.json").read_text()
    (here / "unknown.json").write_text(config.replace('"seed": 0', '"sead": 0'))
    stax = '"kernels": [{"kind": "stax", "function": "helper.py:kernel"}]'
    (here / "code.json").write_text(re.sub(r'"kernels": \[.*?\]', stax, config, flags=re.DOTALL))
    images, classes = np.zeros((12, 8, 8, 1), np.uint8), np.arange(12) % 3
    good = {"x_train": images, "y_train": classes, "x_test": images, "y_test": classes}
    wrong = {
        "floats": {"x_train": images / 255.0},
        "flat": {"x_train": images.reshape(12, 64)},
        "first": {"x_train": images.transpose(0, 3, 1, 2)},
        "short": {"y_train": classes[:5]},
        "gap": {"y_train": classes + 1},
    }
    for name, change in wrong.items():
        np.savez(here / f"{name}.npz", **{**good, **change})
    np.savez(here / "half.npz", **{name: array for name, array in good.items() if name != "y_test"})
    (here / "text.npz").write_text("x_train, y_train")
    (here / "single").mkdir()
    return here


def unknown_to_tfds(name):
    raise tfds.UnknownName("version 0: not there")


def test_there_are_fifty():
    assert len(MISTAKES) >= 50


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_in_one_line_that_says_what_to_do(mistake, folder, monkeypatch, capsys):
    arguments, words = MISTAKES[mistake]
    places = {"RUN": "run", "SET": "run/distilled.npz"}
    monkeypatch.chdir(folder)
    monkeypatch.delenv("KIP_DATA_DIR", raising=False)
    monkeypatch.delenv("KIP_WORKER_KEY", raising=False)
    monkeypatch.setattr("kip.data.tfds.read", unknown_to_tfds)
    assert cli.main([places.get(word, word) for word in arguments]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("kip: error: ")
    assert words in said
    assert "expected" in said or re.search(r"\. [A-Z`].*\.$", said), "it says what was expected, or what to do"
