"""Comparisons whose runs, teachers and cells are jobs: the table of one process, and nothing twice.

Here the jobs are computed by threads of this process; `tests/server/test_jobs.py` has real processes and Ray.
"""

import json

import pytest

from helpers.threads import Threads
from kip.evaluate import setting
from kip.evaluate.comparison import Comparison, compare
from kip.networks import Network
from kip.runs import jobs, loop
from kip.training import squeeze

NETWORK = Network("FC1", width=6)
CONFIG = """
import dataclasses

import kip

PROTOCOL = dataclasses.replace(kip.PROTOCOLS["HL"], epochs=1)
config = kip.Experiment(
    kip.Selection(1, rule=kip.rules.Random(), network=kip.Network("FC1", width=6), test_networks=1, protocol=PROTOCOL),
    preprocess=kip.Preprocess("none"),
)
"""
COMPARISON = Comparison(("HL", "SL"), (NETWORK,), ("random",), epochs=(1,), seeds=1, teacher=NETWORK, teacher_epochs=1)
VARY = ["seed=0,1"]


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "one_a_class.py"
    path.write_text(CONFIG)
    return str(path)


@pytest.fixture
def made(monkeypatch):
    """What was run and trained, in turn."""
    kinds = []
    for module, name in ((loop, "run"), (setting, "judge"), (squeeze, "train")):
        real = getattr(module, name)

        def counted(*arguments, name=name, real=real, **options):
            kinds.append(name)
            return real(*arguments, **options)

        monkeypatch.setattr(module, name, counted)
    return kinds


def bare(table):
    """Return a table without what differs from one time to the next: seconds and memory."""
    names = ("seconds", "peak_memory_mib")
    rows = [{key: value for key, value in row.items() if key not in names} for row in table["sets"]]
    cells = [{key: value for key, value in cell.items() if key != "seconds"} for cell in table["cells"]]
    return {**table, "sets": rows, "cells": cells}


@pytest.mark.slow
def test_two_jobs_at_a_time_make_the_table_of_one_process(config, tmp_path, monkeypatch, made):
    lines = {}
    alone = compare([config], COMPARISON, out=tmp_path / "one", vary=VARY, progress=lines.setdefault("one", []).append)
    assert made.count("judge") == 4, "the baseline has the images of a run"
    made.clear()
    monkeypatch.setenv("KIP_CACHE_DIR", str(tmp_path / "cache"))
    pool, out = Threads(2), tmp_path / "two"
    table = compare([config], COMPARISON, out=out, vary=VARY, pool=pool, progress=lines.setdefault("two", []).append)
    assert bare(table) == bare(alone)
    assert [line for line in lines["one"] if not line.startswith("run ")] == lines["two"]
    assert {name: made.count(name) for name in ("run", "judge")} == {"run": 2, "judge": 4}
    kept = sorted(path.name.partition("-")[0] for path in (tmp_path / "cache" / "artefacts").iterdir())
    assert kept == ["choice", "squeezed"], "of the baseline and the teacher; no lock"
    counts = {row["kind"]: row["done"] for row in json.loads((out / jobs.STATUS).read_text())["kinds"]}
    assert counts == {"run": 2, "teacher": 1, "cell": 4}
    for path in (tmp_path / "one").glob("runs/*/distilled.npz"):
        assert path.read_bytes() == (out / path.relative_to(tmp_path / "one")).read_bytes()
    made.clear()
    assert bare(compare([config], COMPARISON, out=out, vary=VARY, pool=pool)) == bare(alone)
    assert made == ["train"], "of what is known, the teacher alone is read again"
