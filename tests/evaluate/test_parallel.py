"""Comparisons by several processes: the table of one process, nothing twice, and a killed process's work."""

import json
import os
from pathlib import Path

import pytest

from kip.evaluate.comparison import Comparison, compare
from kip.networks import Network
from kip.runs import jobs
from kip.runs.processes import Processes

NETWORK = Network("FC1", width=6)
CONFIG = """
import dataclasses

import kip

NETWORK = kip.Network("FC1", width=4)
PROTOCOL = dataclasses.replace(kip.PROTOCOLS["HL"], epochs=1)
config = kip.Experiment(
    kip.Selection(1, rule=kip.rules.Random(), network=NETWORK, test_networks=1, protocol=PROTOCOL),
    preprocess=kip.Preprocess("none"),
)
"""
COMPARISON = Comparison(("HL", "SL"), (NETWORK,), ("random",), epochs=(1,), seeds=1, teacher=NETWORK, teacher_epochs=1)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "one_a_class.py"
    path.write_text(CONFIG)
    return str(path)


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """Return a function that takes a cache folder of its own, which has nothing but compiled code."""
    known = Path(os.environ["KIP_CACHE_DIR"])

    def take(name):
        folder = tmp_path / name
        folder.mkdir()
        for path in known.iterdir():
            if path.is_symlink():
                (folder / path.name).symlink_to(path.resolve(), target_is_directory=True)
        monkeypatch.setenv("KIP_CACHE_DIR", str(folder))
        return folder

    return take


def bare(table):
    """Return a table without what differs from one time to the next: seconds and memory."""
    names = ("seconds", "peak_memory_mib")
    rows = [{key: value for key, value in row.items() if key not in names} for row in table["sets"]]
    cells = [{key: value for key, value in cell.items() if key != "seconds"} for cell in table["cells"]]
    return {**table, "sets": rows, "cells": cells}


@pytest.mark.slow
def test_two_processes_make_the_table_of_one(config, caches, tmp_path):
    cache = caches("cache")
    vary = ["seed=0,1"]
    with Processes([{}, {}], tmp_path / "logs") as pool:
        table = compare([config], COMPARISON, out=tmp_path / "two", vary=vary, pool=pool)
        found = json.loads((tmp_path / "two" / jobs.STATUS).read_text())
    counts = {row["kind"]: (row["done"], row["all"]) for row in found["kinds"]}
    assert counts == {"run": (2, 2), "teacher": (1, 1), "cell": (4, 4)}  # the baseline has the images of a run
    caches("other cache")
    alone = compare([config], COMPARISON, out=tmp_path / "one", vary=vary)
    assert bare(table) == bare(alone)
    for path in sorted((tmp_path / "one").glob("runs/*/distilled.npz")):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
    assert len(list((cache / "artefacts").glob("squeezed-*.npz"))) == 1
