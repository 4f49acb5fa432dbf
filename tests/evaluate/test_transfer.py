"""Transfer to finite networks: choices on validation only, one training against plain gradient descent, baselines."""

import dataclasses
import json

import numpy as np
import pytest

from kip import cli, data, sets
from kip.errors import ConfigError, ShapeError
from kip.evaluate.transfer import Transfer, transfer_set
from kip.experiment import Experiment
from kip.kernels.architecture import Architecture
from kip.methods.kernel.kip import KIP
from kip.networks import Network
from kip.runs import folder
from kip.runs import loop as train
from kip.training import supervised

FC = Network("FC1", width=32)
QUICK = Transfer(FC, factors=(1.0, 4.0), l2=(0.0, 0.01), steps=300, evaluations=3, seeds=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny run of KIP on digits, with checkpoints."""
    out = tmp_path_factory.mktemp("tiny") / "run"
    kernel = Architecture("FC", 1)
    method = KIP(images_per_class=1, target_batch=500, steps=60, kernels=(kernel,), learn_labels=False)
    train.run(Experiment(method=method, checkpoint_every=20), out, show_progress=False)
    return out


@pytest.fixture(scope="module")
def distilled(run):
    return sets.load(run / "distilled.npz")


@pytest.mark.slow
def test_a_transfer_reports_all_it_did(distilled):
    result = transfer_set(distilled, QUICK)
    assert (result.trained_on, result.images, result.checkpoint) == ("distilled", 10, 60)
    assert len(result.choice.grid) == 4
    best = max(result.choice.grid, key=lambda point: point["validation_accuracy"])
    assert (best["factor"], best["l2"]) == (result.choice.factor, result.choice.l2)
    assert result.choice.learning_rate == result.choice.factor * result.choice.critical_learning_rate
    assert result.test_accuracy == pytest.approx(np.mean(result.test_accuracies))
    assert result.test_spread == pytest.approx(np.std(result.test_accuracies, ddof=1))
    assert len(set(result.test_accuracies)) == 2
    assert result.test_accuracy > 0.4
    assert set(result.stopped) <= {100, 200, 300}
    json.dumps(result.to_dict())


@pytest.mark.slow
def test_nothing_is_chosen_on_test(distilled, monkeypatch):
    honest = transfer_set(distilled, QUICK)
    load = data.load

    def corrupted(*arguments):
        dataset = load(*arguments)
        noise = np.random.default_rng(0)
        images = noise.integers(0, 256, dataset.test.images.shape).astype(np.uint8)
        return dataset._replace(test=data.Split(images, noise.permutation(dataset.test.labels)))

    monkeypatch.setattr(data, "load", corrupted)
    blind = transfer_set(distilled, QUICK)
    assert blind.choice == honest.choice
    assert (blind.stopped, blind.curve) == (honest.stopped, honest.curve)
    assert blind.validation_accuracy == honest.validation_accuracy
    assert blind.test_accuracy < 0.3 < honest.test_accuracy


@pytest.mark.slow
def test_the_natural_baseline_draws_anew_for_each_network_and_from_train_only(distilled, monkeypatch):
    seen = []
    plain = supervised.train
    recording = lambda *args, **options: seen.append(args[5:7]) or plain(*args, **options)  # noqa: E731
    monkeypatch.setattr("kip.training.ensembles.train", recording)
    monkeypatch.setattr("kip.evaluate.transfer.train", recording)
    result = transfer_set(distilled, dataclasses.replace(QUICK, vectorise=4), baseline="natural")
    assert (result.trained_on, result.images, len(seen)) == ("natural", 10, 3)  # one search of all points, two networks
    assert all(images.shape == distilled.images.shape for images, _ in seen)
    assert not np.array_equal(seen[1][0], seen[2][0])
    for _, labels in seen:
        assert sorted(labels.argmax(1)) == list(range(10))


@pytest.mark.slow
def test_the_full_baseline_takes_the_train_split_and_beats_ten_images(distilled):
    config = Transfer(FC, factors=(2.0,), l2=(0.0,), steps=1000, evaluations=2, seeds=1)
    full = transfer_set(distilled, config, baseline="full")
    assert full.images == len(data.load(distilled.experiment.data).train.labels)
    assert full.test_accuracy > transfer_set(distilled, config).test_accuracy
    assert full.test_spread == 0


def test_the_sets_of_a_runs_checkpoints_are_those_that_it_exported(run, distilled):
    first, last = folder.read_sets(run, [0, 60])
    assert (first.metadata["step"], last.metadata["step"]) == (0, 60)
    np.testing.assert_array_equal(last.images_preprocessed, distilled.images_preprocessed)
    assert not np.allclose(first.images_preprocessed, last.images_preprocessed)
    np.testing.assert_array_equal(folder.read_sets(run)[0].images, distilled.images)
    with pytest.raises(ConfigError, match=r"is not a run.s folder"):
        folder.read_sets(run / "distilled.npz", [0])


def test_images_too_small_for_the_network_are_refused_before_training(distilled):
    with pytest.raises(ShapeError, match="ResNet10"):
        transfer_set(distilled, Transfer(Network("ResNet10", norm="instance")))


def test_the_command_trains_on_checkpoints_and_baselines(run, tmp_path, capsys):
    options = {"network": "FC1 width=8", "steps": 5, "factors": 1, "l2": 0, "seeds": 1, "evaluations": 1}
    words = [word for name, option in options.items() for word in (f"--{name}", str(option))] + ["--loss", "xent"]
    out = tmp_path / "transfer.json"
    arguments = ["transfer", str(run), "--checkpoints", "0", "60", *words, "--baseline", "natural"]
    assert cli.main([*arguments, "--out", str(out), "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    summary = json.loads(lines[-1])
    assert [result["trained_on"] for result in summary["results"]] == ["distilled", "distilled", "natural"]
    assert {result["loss"] for result in summary["results"]} == {"xent"}
    best = max(summary["results"][:2], key=lambda result: result["validation_accuracy"])
    assert summary["checkpoint"] == best["checkpoint"]
    assert json.loads(out.read_text()) == summary
    assert lines[0].startswith("distilled step 0")
