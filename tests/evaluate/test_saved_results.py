"""Commands of many trainings write --out as their results come, so that who stops one keeps what it had."""

import importlib
import json

import pytest

from kip import cli, train
from kip.distill.kip import KIP
from kip.experiment import Experiment
from kip.kernels import Architecture

SMALL = "--network FC1 --width 8 --seeds 1"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("saved") / "run"
    method = KIP(images_per_class=1, target_batch=200, steps=1, kernels=(Architecture("FC", 1),))
    train.run(Experiment(method=method), out, show_progress=False)
    return out


@pytest.mark.parametrize(
    ("module", "function", "command", "key"),
    [
        ("protocols", "accuracy", f"protocols RUN --baseline random --epochs 1 {SMALL}", "cells"),
        ("pretraining", "_judged", f"pretraining RUN --data digits --start distilled none {SMALL}", "cells"),
        (
            "transfer",
            "transfer_set",
            f"transfer RUN/distilled.npz --baseline natural --steps 2 --evaluations 1 --factors 1 --l2 0 {SMALL}",
            "results",
        ),
    ],
)
def test_what_is_known_is_saved_before_the_next_is_computed(run, tmp_path, monkeypatch, module, function, command, key):
    module = importlib.import_module(f"kip.evaluate.{module}")
    real, calls = getattr(module, function), []

    def stopped_at_the_second(*args, **options):
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(module, function, stopped_at_the_second)
    out = tmp_path / "results.json"
    assert cli.main([*command.replace("RUN", str(run)).split(), "--out", str(out)]) == 130
    assert len(json.loads(out.read_text())[key]) == 1
