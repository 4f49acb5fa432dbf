"""`kip compare --jobs` and `--executor ray` as users start them: workers and the command are killed. Real processes."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers import processes
from kip.runs import jobs

pytestmark = pytest.mark.slow
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
CELLS = 12


def command(config, out, *more):
    return [
        sys.executable, "-m", "kip.cli", "compare", str(config), "--vary", "seed=0,1,2", "--protocols", "HL", "SL",
        "--networks", "FC1 width=6", "FC1 width=8", "--epochs", "300", "--seeds", "1", "--teacher", "FC1 width=6",
        "--teacher-epochs", "2", "--out", str(out), *more,
    ]  # fmt: skip


def began(config, out, more):
    with open(out.parent / "log", "ab") as log:
        return subprocess.Popen(command(config, out, *more), stdout=log, stderr=log, start_new_session=True)


def workers_of(pid, out):
    """Return the processes of a command that compute: those of its own, and Ray's."""
    progress = jobs.status(out) or {"workers": []}
    own = [int(line.split()[1]) for line in progress["workers"] if line.startswith("process ")]
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = path.read_text().rpartition(")")[2].split()[1]
            grandparent = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[1]
            if grandparent == str(pid) and (path.parent / "cmdline").read_bytes().startswith(b"ray::_call"):
                own.append(int(path.parent.name))
        except OSError:
            continue
    return own


def cells(out):
    return {path.name: path.stat().st_mtime_ns for path in (out / "cells").glob("*.json")}


def bare(out):
    """Return a table's accuracies and rows, without seconds and memory."""
    table = json.loads((out / "comparison.json").read_text())
    changing = ("seconds", "peak_memory_mib")
    rows = {
        name: [{key: value for key, value in row.items() if key not in changing} for row in table[name]]
        for name in ("sets", "cells", "average", "teachers", "scores")
    }
    return rows


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of the comparison that one process made, and its configuration."""
    folder = tmp_path_factory.mktemp("alone")
    config = folder / "one_a_class.py"
    config.write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KIP_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
        subprocess.run(command(config, folder / "table"), check=True, capture_output=True)
    return config, folder / "table"


@pytest.mark.parametrize(
    "more",
    [
        ("--jobs", "2"),
        pytest.param(
            ("--executor", "ray"),
            marks=pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed"),
        ),
    ],
    ids=" ".join,
)
def test_a_killed_worker_and_a_killed_command_leave_the_table_of_one_process(alone, tmp_path, more):
    config, expected = alone
    out = tmp_path / "table"
    process = began(config, out, more)
    killed, known, deadline = [], {}, time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None:
        known = cells(out)
        if len(known) >= 1 and not killed and (found := workers_of(process.pid, out)):
            killed = found[:1]
            os.kill(killed[0], signal.SIGKILL)
        if len(known) >= 4 and killed:
            break
        time.sleep(0.1)
    assert killed
    assert process.poll() is None, (tmp_path / "log").read_text()
    left = workers_of(process.pid, out)
    process.kill()
    process.wait()
    known = cells(out)
    assert 0 < len(known) < CELLS
    assert all(processes.ended(pid, 40) for pid in left), "they end with the command"
    again = began(config, out, more)
    assert again.wait(600) == 0, (tmp_path / "log").read_text()
    after = cells(out)
    assert len(after) == CELLS
    assert known.items() <= after.items(), "no cell is trained twice"
    assert bare(out) == bare(expected)
    progress = jobs.status(out)
    assert progress is not None
    assert jobs.as_text(progress).startswith("ended: ")
