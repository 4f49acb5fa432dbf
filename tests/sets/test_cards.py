"""The sets that come with kip: files and cards agree, and a name stands where a file may."""

import contextlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import kip
from helpers.kinds import some
from kip import cli, sets
from kip.errors import DataError
from kip.evaluate import comparison, evaluate_set
from kip.pictures import comparison as pictures
from kip.runs import folder
from kip.sets.cards import CARDS, FOLDER, cards, is_shipped, resolved

MOST_BYTES = 4 << 20
"""Of all sets together, in the wheel."""
NAMES = tuple(cards())
ONE = "digits_convnet"
"""A set whose data set is always there."""


def command(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main([str(argument) for argument in arguments])
    return status, out.getvalue(), err.getvalue()


def test_there_is_a_card_for_each_file_and_all_of_them_are_small():
    files = {path.name for path in FOLDER.iterdir() if path.name != CARDS}
    assert files == {f"{name}.npz" for name in NAMES}
    assert ONE in NAMES
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= MOST_BYTES


def test_a_comparison_says_whether_it_takes_a_set_or_runs_a_configuration(monkeypatch, tmp_path):
    taken = []
    monkeypatch.setattr(comparison, "compare", lambda sets, *_, **__: taken.extend(sets) or {"cells": [], "sets": []})
    monkeypatch.setattr(pictures, "write", lambda *_: [])
    names = [ONE, f"{ONE}.npz", "cifar10_kip_ipc1"]
    status, _, err = command("compare", *names, "--out", tmp_path / "out")
    assert status == 0
    assert taken == [ONE, f"{ONE}.npz", "cifar10_kip_ipc1.npz"]
    assert f"kip: {ONE} is run, as a configuration; {ONE}.npz is the set of that name that comes with kip" in err


@pytest.mark.parametrize("name", NAMES)
def test_a_card_says_what_its_file_says(name):
    loaded, card = kip.load_set(name), cards()[name]
    assert loaded.card == card
    about = loaded.card
    own = sets.load(FOLDER / f"{name}.npz")._replace(labels=loaded.labels + 1).card  # of a set that is none of ours
    assert own.name is None
    for field in ("data", "method", "judge", "images", "preprocess"):
        assert getattr(own, field) == getattr(card, field), field
    assert some(own.score) == pytest.approx(some(about.score), abs=5e-5)
    assert len(some(about.source)) > 10
    words = some(about.command).split()
    assert words[:2] == ["kip", "distill"]
    config = kip.load_experiment(words[2])
    assert config.method.name == about.method
    assert about.evaluate == f"kip evaluate {name}"
    assert some(about.score) > some(about.natural)
    assert some(about.seconds) > 0
    assert str(about).startswith(f"{name}: {about.images} images of {about.data} by {about.method}, ")


def test_a_set_gives_the_score_of_its_card():
    loaded = kip.load_set(ONE)
    with kip.KernelBlocks(loaded.origin.blocks) as blocks:
        (result,) = evaluate_set(loaded, blocks)
    assert result.test_accuracy == pytest.approx(some(loaded.card.score), abs=5e-5)
    test = kip.load_data(loaded.origin.data).test
    assert np.mean(loaded.predict(np.asarray(test.images)) == test.labels) == pytest.approx(
        result.test_accuracy, abs=0.006
    )


def test_what_is_on_the_disk_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolved(ONE) == resolved(f"{ONE}.npz") == FOLDER / f"{ONE}.npz"
    assert is_shipped(Path(ONE))
    assert resolved(tmp_path / ONE) == tmp_path / ONE
    assert resolved(f"runs/{ONE}") == Path(f"runs/{ONE}")
    other = next(name for name in NAMES if name != ONE)
    shutil.copy(FOLDER / f"{other}.npz", tmp_path / f"{ONE}.npz")
    assert sets.load(Path(f"{ONE}.npz")).card.name == other
    Path(ONE).mkdir()
    assert not is_shipped(ONE)


def test_an_unknown_name_is_refused_with_what_it_may_mean():
    with pytest.raises(
        DataError, match=r"no distilled set at digits_convnett.*Did you mean digits_convnet\?.*kip sets"
    ):
        kip.load_set("digits_convnett")
    with pytest.raises(DataError, match="no distilled set at") as refused:
        kip.load_set("elsewhere/digits_convnett")
    assert "Did you mean" not in str(refused.value)


def test_sets_lists_them_with_score_and_command():
    status, out, _ = command("sets", "--json")
    assert status == 0
    listed = json.loads(out.splitlines()[-1])["sets"]
    assert tuple(listed) == NAMES
    for name, card in listed.items():
        assert name in out
        assert card["command"] in out
        assert card["sha256"] == cards()[name].sha256


def test_commands_take_a_name_and_write_where_the_user_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.json").write_text(json.dumps({"data_dir": str(tmp_path)}))  # of some run; no word of this set
    assert folder.place_of_data(Path(ONE)) is None
    assert command("show", ONE)[0] == 0
    assert command("export", ONE, "--format", "folder")[0] == 0
    assert command("export", f"{ONE}.npz", "--out", "mine.npz")[0] == 0
    assert sets.load(Path("mine.npz")).card.name == ONE
    assert {path.name for path in tmp_path.iterdir()} == {
        "data.json",
        f"{ONE}.png",
        f"{ONE}_pictures",
        "mine.npz",
    }
    assert {path.suffix for path in FOLDER.iterdir()} == {".npz", ".json"}
    status, out, err = command("evaluate", ONE, "--json")
    assert status == 0, err
    assert json.loads(out.splitlines()[-1])["test_accuracy"] == pytest.approx(some(cards()[ONE].score), abs=5e-5)


def test_an_export_of_a_set_as_it_is_is_a_copy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command("export", ONE)[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == [f"{ONE}.npz"]
    assert sets.load(tmp_path / f"{ONE}.npz").card.name == ONE
