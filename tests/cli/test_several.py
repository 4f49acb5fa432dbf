"""Several runs of one command, and several processes of one: what is refused, and the bits of one run and process."""

import json
import threading

import pytest

from helpers.threads import Threads
from kip import cli, machine
from kip.cli import options
from kip.methods.matching import experts
from kip.runs import loop, processes

RUNS = """
import dataclasses

import kip

NETWORK = kip.Network("FC1", width=4)
PROTOCOL = dataclasses.replace(kip.PROTOCOLS["HL"], epochs=1)


def row(rule):
    return kip.Experiment(
        kip.Selection(1, rule=rule, network=NETWORK, test_networks=1, protocol=PROTOCOL),
        preprocess=kip.Preprocess("none"),
    )


rows = {"one_random": row(kip.rules.Random()), "one_herding": row(kip.rules.Herding()), "other": None}
"""
EXPERTS = """
import dataclasses

import kip

NETWORK = kip.Network("FC1", width=4, norm="none")
config = kip.Experiment(
    kip.MTT(
        1, network=NETWORK, steps=2, experts=kip.Experts(count=4, epochs=3), student_steps=2, expert_epochs=1,
        last_start=2, test_networks=1, validation_networks=1,
        protocol=dataclasses.replace(kip.PROTOCOLS["HL"], epochs=1),
    ),
)
"""


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.py"
    path.write_text(RUNS)
    return str(path)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--jobs", "2", "--executor", "ray"], "--jobs with --executor ray; got 2"),
        (["--jobs", "0"], "--jobs; got 0; expected 1 to 2, for 2 CPU cores"),
        (["--jobs", "3"], "--jobs; got 3; expected 1 to 2, for 2 CPU cores"),
        (["--jobs", "2", "--device-share", "0"], "--device-share; got 0"),
        (["--device-share", "0.5"], "--device-share of one job"),
        (["--address", "auto"], "--address with --executor local; got auto"),
    ],
)
@pytest.mark.parametrize("command", ["compare", "distill"])
def test_jobs_that_do_not_fit_are_refused_before_anything_is_run(
    command, words, error, table, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(loop, "run", None)
    monkeypatch.setattr(machine, "cores", lambda: 2)
    monkeypatch.setattr(machine, "gpus", list)
    status = cli.main([command, f"{table}:one_*", *words, "--out", str(tmp_path / "out")])
    assert status == cli.FAILED
    assert f"kip: error: {error}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--executor", "zmq"], "--executor of several runs; got zmq"),
        (["--workers", "4"], "options of one run; got --workers"),
        (["--jobs", "2", "--log", "tensorboard"], "options of one run; got --log"),
        (["--vary", "sed=1"], "expected a field of the configuration"),
    ],
)
def test_several_runs_take_no_options_of_one(words, error, table, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "run", None)
    assert cli.main(["distill", f"{table}:one_*", *words, "--out", str(tmp_path / "out")]) == cli.FAILED
    assert error in capsys.readouterr().err


def test_the_values_of_vary_stand_before_and_behind_the_configuration():
    assert options.config_first(["--vary", "seed=0,1", "method.steps=1,2", "NAME", "--jobs", "2"]) == (
        "NAME",
        ["--vary", "seed=0,1", "method.steps=1,2", "--jobs", "2"],
    )


@pytest.fixture
def threads(monkeypatch):
    """Let --jobs compute by threads of this process, which begin sooner than processes."""
    monkeypatch.setattr(processes, "Processes", lambda environments, *_: Threads(len(environments)))
    monkeypatch.setattr(machine, "cores", lambda: 2)
    monkeypatch.setattr(machine, "gpus", list)


@pytest.mark.slow
def test_rows_and_values_are_run_each_in_a_folder_and_by_jobs_to_the_same_bits(table, tmp_path, capsys, threads):
    words = ["distill", f"{table}:one_*", "--vary", "seed=1", "--json", "--out"]
    found = {}
    for name, more in (("one", []), ("two", ["--jobs", "2"])):
        assert cli.main([*words, str(tmp_path / name), *more]) == 0
        found[name] = json.loads(capsys.readouterr().out.splitlines()[-1])
    titles = [f"{table}:{row} seed=1" for row in ("one_random", "one_herding")]
    assert [row["name"] for row in found["two"]["runs"]] == titles
    sets = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").glob("*/distilled.npz"))
    assert len(sets) == 2
    for path in sets:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes()
    assert cli.main(["status", str(tmp_path / "two")]) == 0
    assert capsys.readouterr().out.startswith("ended: 2 of 2 runs")


@pytest.mark.slow
def test_the_experts_of_a_run_are_shared_out_to_the_same_bits(tmp_path, monkeypatch, capsys, threads):
    config, by, real = tmp_path / "experts.py", [], experts._train
    config.write_text(EXPERTS)
    sets = []

    both = threading.Barrier(2, timeout=120)

    def noted(*arguments):
        is_first = threading.get_ident() not in by
        by.append(threading.get_ident())
        if is_first and len(sets) == 1:
            both.wait()  # so that neither makes all of them
        return real(*arguments)

    monkeypatch.setattr(experts, "_train", noted)
    for name, more in (("one", []), ("two", ["--jobs", "2"])):
        (tmp_path / "cache" / name).mkdir(parents=True)
        by.clear()
        monkeypatch.setenv("KIP_CACHE_DIR", str(tmp_path / "cache" / name))
        assert cli.main(["distill", str(config), "--out", str(tmp_path / name), *more]) == 0
        assert "test accuracy" in capsys.readouterr().out
        made = sorted(path.name for path in (tmp_path / "cache" / name / "artefacts").iterdir())
        sets.append(((tmp_path / name / "distilled.npz").read_bytes(), made))
    assert sets[0] == sets[1]
    assert len(sets[0][1]) == 4
    assert len({*by}) == 2, "a process without a job makes some of them"
