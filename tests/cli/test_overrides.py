"""Options that change a configuration's values."""

from typing import Any

import pytest

import kip
from kip import experiment as configurations
from kip.cli import overrides, runs, several
from kip.errors import ConfigError

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


TABLE = """
from pathlib import Path

import kip

with open(Path(__file__).with_name("loaded"), "a") as log:
    log.write("x")
rows = {str(count): kip.Experiment(kip.KIP(count, kernels=(kip.Architecture("FC", 1),))) for count in (1, 2, 3)}
"""


@pytest.mark.parametrize(
    ("words", "parsed", "seeds"), [(("--jobs", "2"), 0, [0, 0, 0]), (("--jobs", "2", "--seed", "5"), 3, [5, 5, 5])]
)
def test_a_table_is_loaded_once_and_its_options_are_read_once(tmp_path, monkeypatch, words, parsed, seeds):
    """Where a word is for the configuration, each row has options of its own."""
    path, calls, given = tmp_path / "table.py", [], []
    path.write_text(TABLE)
    parse = overrides.parse
    monkeypatch.setattr(overrides, "parse", lambda *args, **options: (calls.append(1), parse(*args, **options))[1])
    monkeypatch.setattr(several, "run_several", lambda *arguments: given.append(arguments))
    runs.with_overrides("distill", f"{path}:*", words)
    ((wanted, options, _),) = given
    assert [run.experiment.method.images_per_class for run in wanted] == [1, 2, 3]
    assert [run.experiment.seed for run in wanted] == seeds
    assert options.jobs == 2
    assert len(calls) == parsed
    assert (tmp_path / "loaded").read_text() == "x"


def test_a_file_that_has_changed_is_loaded_anew(tmp_path):
    path = tmp_path / "one.py"
    for seed in (1, 2, 1):
        path.write_text(f"import kip\n\nconfig = kip.Experiment(kip.KIP(1), seed={seed})\n")
        assert configurations.load(str(path)).seed == seed


@pytest.mark.parametrize("words", [("--jobs", "many"), ("--no-such-option", "1")])
def test_a_wrong_option_of_a_table_is_named(tmp_path, words):
    path = tmp_path / "table.py"
    path.write_text(TABLE)
    with pytest.raises(ConfigError, match=words[0]):
        runs.with_overrides("distill", f"{path}:*", words)
