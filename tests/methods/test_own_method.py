"""A user's own method of 20 lines, that of `docs/adding_a_method.md`, in a config file outside the package.

It runs, resumes, is exported, judged, shown and reported; all but the run in a process that has never seen its class.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.kinds import some, untyped
from kip import cli, sets
from kip.cli import overrides
from kip.errors import ConfigError
from kip.experiment import load
from kip.methods.contract import Method

PAGE = Path(__file__).parents[2] / "docs" / "adding_a_method.md"
CONFIG = some(re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL))[1]
"""The page's example."""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "drift.py"
    path.write_text(CONFIG)
    yield path
    Method.registry.pop("drift", None)


@pytest.mark.slow
def test_it_runs_resumes_is_exported_judged_and_reported(config, tmp_path, capsys):
    run = tmp_path / "run"
    assert cli.main(["distill", str(config), "--out", str(run), "--method.steps", "2"]) == 0
    assert cli.main(["distill", str(config), "--out", str(run), "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["steps"] == 4
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [0, 1, 2, 3, 4]
    exported = (run / "distilled.npz").read_bytes()

    # The rest happens in a process that has never seen the method, as wherever a set is loaded.
    again = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from kip.cli import main\n"
            "run = sys.argv[1]\n"
            "assert main(['export', run]) == 0\n"
            "assert main(['evaluate', run + '/distilled.npz', '--json']) == 0\n"
            "assert main(['evaluate', run + '/distilled.npz', '--kernel', 'RBF']) == 0\n"
            "assert main(['analyze', run, '--targets', '20', '--repeats', '1']) == 0\n"
            "assert main(['show', run + '/distilled.npz']) == 0\n"
            "assert main(['report', run]) == 0\n"
            "assert main(['status', run]) == 0\n",
            str(run),
        ],
        capture_output=True,
        text=True,
        env=os.environ,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    (judged,) = [json.loads(line) for line in again.stdout.splitlines() if line.startswith("{")]
    assert judged["test_accuracy"] == result["test_accuracy"]
    assert (run / "distilled.npz").read_bytes() == exported
    assert "drift" in (run / "report.html").read_text()


def test_its_help_lists_its_options(config, capsys):
    """The file was no module that Python knew, and a class in it had no source: a traceback."""
    with pytest.raises(SystemExit) as stop:
        cli.main(["distill", str(config), "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "--method.images-per-class INT" in shown
    assert "--out FOLDER" in shown


CHILD = '''
from __future__ import annotations
from typing import Literal
import kip
from kip.config import value

@value
class Counting(kip.KIP):
    """KIP that also counts."""

    sheep: int = 3
    """How many sheep are counted."""
    name: Literal["counting"] = "counting"

config = kip.Experiment(Counting(2, kernels=(kip.Architecture("FC", 1),), target_batch=50, steps=4))
'''
"""A method that subclasses one of kip's, with annotations that are read where it is defined."""


@pytest.fixture
def child(tmp_path):
    path = tmp_path / "child.py"
    path.write_text(CHILD)
    yield path
    Method.registry.pop("counting", None)


def test_a_method_that_subclasses_one_of_kip_s_has_help_and_options(child, capsys):
    """All its options were refused, --out too: annotations were looked up in no module."""
    with pytest.raises(SystemExit):
        cli.main(["distill", str(child), "--help"])
    shown = " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
    assert "--method.sheep INT How many sheep are counted. (default: 3)" in shown
    assert "--method.steps INT" in shown
    given = overrides.parse(
        load(str(child)), ["--method.sheep", "5", "--out", "there"], prog="kip distill", description=""
    )
    assert (untyped(given.experiment.method).sheep, given.options.out) == (5, Path("there"))
    with pytest.raises(ConfigError, match=r"--method\.sheep"):
        overrides.parse(load(str(child)), ["--method.sheep", "many"], prog="kip distill", description="")


def test_a_file_that_has_changed_is_read_anew_and_one_that_fails_leaves_nothing(child):
    before = untyped(load(str(child)).method)
    child.write_text(CHILD.replace("= 3", "= 4"))
    assert (before.sheep, untyped(load(str(child)).method).sheep) == (3, 4)
    modules = set(sys.modules)
    child.write_text("raise RuntimeError('no')")
    with pytest.raises(ConfigError, match="RuntimeError"):
        load(str(child))
    assert set(sys.modules) == modules
    assert not (child.parent / "__pycache__").exists()


def test_its_options_are_overridden_and_checked_as_any_method_s(config, tmp_path):
    assert untyped(load(str(config)).method).images_per_class == 1
    with pytest.raises(ConfigError, match="stepz"):
        untyped(type(load(str(config)).method))(stepz=3)


def test_its_class_is_not_looked_for_by_a_set_that_names_it(config, tmp_path):
    assert cli.main(["distill", str(config), "--out", str(tmp_path / "run")]) == 0
    Method.registry.pop("drift")
    distilled = sets.load(tmp_path / "run" / "distilled.npz")
    assert distilled.origin.method == "drift"
    assert np.isfinite(distilled.images).all()
    with pytest.raises(ConfigError, match="A method of your own is known once its config file is loaded"):
        _ = distilled.experiment


def test_a_name_of_kip_s_own_is_refused(tmp_path):
    (tmp_path / "thief.py").write_text(CONFIG.replace('"drift"', '"kip"'))
    with pytest.raises(ConfigError, match="another name"):
        load(str(tmp_path / "thief.py"))
