"""Commands of many trainings write --out as their results come, so that who stops one keeps what it had."""

import importlib
import json

import pytest

from kip import cli

SMALL = ["FC1 width=8", "--seeds", "1"]


@pytest.mark.parametrize(
    ("module", "function", "command", "network", "key"),
    [
        pytest.param(
            *("setting", "judge", "compare RUN --baselines random --epochs 1", "--networks", "cells"),
            marks=pytest.mark.slow,
        ),
        ("pretraining", "_judged", "pretraining RUN --data digits --starts distilled none", "--networks", "cells"),
        (
            "transfer",
            "transfer_set",
            "transfer RUN/distilled.npz --baseline natural --steps 2 --evaluations 1 --factors 1 --l2 0",
            "--network",
            "results",
        ),
    ],
)
def test_what_is_known_is_saved_before_the_next_is_computed(
    run, tmp_path, monkeypatch, module, function, command, network, key
):
    module = importlib.import_module(f"kip.evaluate.{module}")
    real, calls = getattr(module, function), []

    def stopped_at_the_second(*args, **options):
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(module, function, stopped_at_the_second)
    out = tmp_path / ("results" if command.startswith("compare") else "results.json")
    assert cli.main([*command.replace("RUN", str(run)).split(), network, *SMALL, "--out", str(out)]) == 130
    written = out / "comparison.json" if out.is_dir() else out
    assert len(json.loads(written.read_text())[key]) == 1
