"""A run remembers where its data set lay: commands after it find the set again without being told."""

import io
import json
import shutil
import sys

import numpy as np
import pytest

import kip
from kip import cli
from kip.errors import DataError
from kip.runs import folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a data folder with a set, and the run of a configuration with it."""
    root = tmp_path_factory.mktemp("place")
    (root / "sets").mkdir()
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 256, (60, 6, 6, 1)).astype(np.uint8), np.arange(60) % 2
    np.savez(
        root / "sets" / "mine.npz",
        x_train=x,
        y_train=y,
        x_test=x[:10] // 2,
        y_test=y[:10],
        class_names=["a$b_{$", "cold\x1b[2J"],
    )
    (root / "config.py").write_text(
        "import kip\n"
        "config = kip.Experiment(\n"
        "    kip.KIP(images_per_class=3, kernels=(kip.Architecture('FC', 1),), target_batch=20, steps=2,"
        " learn_labels=True),\n"
        "    data=kip.Data('mine', validation=6), checkpoint_every=1,\n"
        ")\n"
    )
    command = ["distill", str(root / "config.py"), "--data-dir", str(root / "sets"), "--out", str(root / "run")]
    assert cli.main(command) == 0
    return root


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch):
    monkeypatch.delenv("KIP_DATA_DIR", raising=False)


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "run"],
        ["evaluate", "run/distilled.npz", "--kernel", "FC1"],
        ["export", "run", "--step", "1", "--out", "again.npz"],
        ["analyze", "run", "--checkpoints", "0", "--repeats", "1"],
        ["transfer", "run", "--network", "FC1 width=8", "--steps", "2", "--factors", "1", "--l2", "0"],
        ["compare", "run", "--networks", "FC1 width=8", "--epochs", "1", "--seeds", "1", "--out", "table"],
        ["distill", "config.py", "--out", "run"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
@pytest.mark.slow
def test_commands_after_a_run_need_no_data_dir(place, monkeypatch, capsys, command):
    monkeypatch.chdir(place)
    assert cli.main([*command, "--json"]) == 0, capsys.readouterr().err
    results = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "error" not in results


@pytest.mark.slow
def test_what_is_given_comes_first_and_a_folder_that_has_gone_is_forgotten(place, tmp_path):
    run = shutil.copytree(place / "run", tmp_path / "run")
    assert folder.place_of_data(run) == place / "sets"
    assert folder.place_of_data([tmp_path / "other.npz", run / "distilled.npz"]) == place / "sets"
    assert folder.place_of_data(run, tmp_path) == tmp_path
    for text in ('{"data_dir": "/no/such/folder"}', '{"data_dir": 3}', "[]", "no JSON", '{"data_dir": ""}'):
        (run / folder.PLACE).write_text(text)
        assert folder.place_of_data(run) is None
    with pytest.raises(DataError, match=r"no data set named 'mine'|cannot be imported"):
        folder.export_run(run, step=1, data_dir=tmp_path)


@pytest.mark.slow
def test_the_place_is_that_of_the_variable_too(place, tmp_path, monkeypatch):
    monkeypatch.setenv("KIP_DATA_DIR", str(place / "sets"))
    config = kip.load_experiment(str(place / "config.py"))
    kip.run(config, tmp_path / "run", show_progress=False)
    monkeypatch.delenv("KIP_DATA_DIR")
    assert folder.place_of_data(tmp_path / "run") == place / "sets"


def test_a_terminal_without_a_letter_shows_its_number(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert cli.main(["--version"]) == 0
    print("\N{CJK UNIFIED IDEOGRAPH-732B}\udcff", flush=True)
    assert written.getvalue().endswith(b"\\u732b\\udcff\n")


def test_classes_are_called_by_their_names_after_a_run(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    assert cli.main(["distill", "config.py", "--out", "run"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  by class")]
    assert "(a$b_{$)" in line
    assert r"(cold\x1b[2J)" in line
