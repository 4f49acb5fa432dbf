"""Options that change a configuration's values."""

from typing import Any

import kip
from kip.cli import overrides

ENCODER = "def features(images):\n    return images.reshape(len(images), -1) {}\n"


def parse(experiment: kip.Experiment, *words: str) -> Any:
    return overrides.parse(experiment, words, prog="kip distill mine.py", description="A run").experiment


def test_an_encoder_that_is_named_anew_is_known_by_its_own_content(tmp_path):
    first, second = tmp_path / "first.py", tmp_path / "second.py"
    first.write_text(ENCODER.format("* 2"))
    second.write_text(ENCODER.format("* 3"))
    kernels = (kip.Architecture("FC", 1), kip.Features(f"{first}:features", batch=7))
    experiment = kip.Experiment(kip.KIP(kernels=kernels), data=kip.Data("digits"))
    changed = parse(experiment, "--method.kernels.1.function", f"{second}:features", "--method.steps", "3")
    assert changed.method.kernels == (kernels[0], kip.Features(f"{second}:features", batch=7))
    assert changed.method.kernels[1].source != kernels[1].source
    assert changed.method.steps == 3
    first.write_text(ENCODER.format("* 5"))
    assert parse(experiment, "--method.steps", "3").method.kernels == kernels, "a changed file stays to be refused"
