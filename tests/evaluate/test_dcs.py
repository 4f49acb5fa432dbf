"""DCS: the subsets, methods' own losses of them, the partial correlation, and the command."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

import kip
from kip import cli, krr
from kip import data as sources
from kip import preprocess as preprocessing
from kip.blocks import KernelBlocks
from kip.errors import ConfigError
from kip.evaluate import dcs, setting
from kip.evaluate.dcs import Correlation, own_loss, partial_spearman, spearman, subsets
from kip.methods.decoupled.recovery import recovery_loss, roll_images
from kip.networks.model import Model
from kip.rng import key
from kip.runs.setup import problem_of
from kip.storage.artefacts import Store

FC = kip.Architecture("FC", 1)


@pytest.fixture(scope="module")
def dataset():
    return sources.load(sources.Data("digits"))


def problem_and_prepared(dataset, method, tmp_path, kind: Any = "standardize"):
    wanted = kip.Experiment(method, preprocess=kip.Preprocess(kind))
    transform = preprocessing.fit(wanted.preprocess, dataset.train.images)
    problem = problem_of(wanted, dataset, transform, KernelBlocks(wanted.blocks), None)
    return problem, method.prepare(problem, Store(tmp_path, show_progress=False))


def of_each_class(problem, count):
    return np.concatenate([np.flatnonzero(problem.labels == label)[:count] for label in range(10)])


def test_the_partial_correlation_is_that_of_the_ranks_residuals(rng):
    size = rng.integers(1, 5, 80)
    loss, error = (rng.normal(size=80) - size for _ in range(2))
    error = error + 0.5 * loss
    ranks = {name: rankdata(values) for name, values in (("loss", loss), ("error", error), ("size", size))}
    design = np.stack([ranks["size"], np.ones(80)], 1)
    residuals = [
        ranks[name] - design @ np.linalg.lstsq(design, ranks[name], rcond=None)[0] for name in ("loss", "error")
    ]
    assert partial_spearman(loss, error, size) == pytest.approx(np.corrcoef(*residuals)[0, 1])
    assert spearman(loss, error) == pytest.approx(spearmanr(loss, error).statistic)
    assert spearman(loss, list(np.zeros(80))) is None
    assert partial_spearman(size, error, size) is None


def test_subsets_have_as_many_images_of_each_class_and_are_of_their_kind(dataset):
    inputs, labels = dataset.train.images.astype(np.float32), dataset.train.labels
    made = subsets(inputs, labels, Correlation(per_class=(1, 4), subsets=8))
    assert [(subset.kind, subset.per_class) for subset in made] == [
        ("random", 1), ("random", 4), ("random", 1), ("repeated", 4), ("random", 1), ("near", 4), ("random", 1),
        ("far", 4),
    ]  # fmt: skip
    for subset in made:
        np.testing.assert_array_equal(np.sort(labels[subset.indices]), np.repeat(np.arange(10), subset.per_class))
    assert len(set(made[3].indices)) == 20
    assert len(set(made[1].indices)) == len(set(made[5].indices)) == len(set(made[7].indices)) == 40

    def width(subset):
        points = inputs[subset.indices].reshape(10, 4, -1)
        return np.square(points - points.mean(1, keepdims=True)).sum()

    assert width(made[5]) < width(made[1]) < width(made[7])
    again = subsets(inputs, labels, Correlation(per_class=(1, 4), subsets=8))
    for subset, same in zip(made, again):
        np.testing.assert_array_equal(subset.indices, same.indices)
    assert set(made[0].indices) != set(made[2].indices)
    with pytest.raises(ConfigError, match="per_class"):
        subsets(inputs, labels, Correlation(per_class=(1000,)))


def test_kips_loss_of_a_subset_is_the_krr_loss(dataset, tmp_path):
    method = kip.KIP(images_per_class=2, target_batch=None, kernels=(FC,), steps=10)
    problem, prepared = problem_and_prepared(dataset, method, tmp_path)
    indices = of_each_class(problem, 2)[::-1]
    images, labels = problem.inputs[indices], sources.centred_one_hot(problem.labels[indices], 10)
    k_ss, k_ts = problem.blocks.forward(FC, images, np.asarray(problem.inputs))
    expected = krr.cotangents(
        k_ss, k_ts, labels, sources.centred_one_hot(problem.labels, 10), method.ridge, "mean"
    ).loss
    assert own_loss(method, problem, prepared, indices, 1) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_sre2ls_loss_of_a_subset_is_that_of_its_groups_of_one_image_a_class(dataset, tmp_path):
    network = kip.Network("ConvNet-D3", width=4, norm="batch")
    method = kip.SRe2L(images_per_class=2, network=network, squeeze=kip.Squeeze(epochs=1), iterations=3)
    problem, prepared = problem_and_prepared(dataset, method, tmp_path)
    indices = of_each_class(problem, 2)
    expected = []
    for group in range(2):
        step = 3 * group
        images = roll_images(key(0, "roll", step), jnp.asarray(problem.inputs[indices[group::2]]), method.roll)
        labels, squeezed = jax.nn.one_hot(jnp.arange(10), 10), prepared.variables[0]
        loss, _ = recovery_loss(Model(network, 10), squeezed, images, labels, strength=method.strength)
        expected.append(float(loss))
    assert own_loss(method, problem, prepared, indices, 2) == pytest.approx(np.mean(expected), rel=1e-4)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (kip.Selection(2, rule=kip.rules.Random(), network=kip.Network("FC1", width=4)), "steps without a loss"),
        (kip.KIP(images_per_class=1, kernels=(FC,), target_batch=100), "a set of 10 images"),
    ],
)
def test_methods_without_a_loss_of_a_set_are_refused(dataset, tmp_path, method, words):
    problem, prepared = problem_and_prepared(dataset, method, tmp_path)
    with pytest.raises(ConfigError, match=words):
        own_loss(method, problem, prepared, of_each_class(problem, 2), 1)


@pytest.mark.slow
def test_the_command_keeps_what_it_computed_and_draws_it(tmp_path, capsys, monkeypatch):
    config = tmp_path / "small.py"
    config.write_text(
        "import kip\n"
        "config = kip.Experiment(kip.KIP(target_batch=100, steps=4, kernels=(kip.Architecture('FC', 1),)))\n"
    )
    arguments = ["dcs", str(config), "--network", "FC1 width=8", "--per-class", "1", "2", "--subsets", "6"]
    arguments += ["--epochs", "2", "--draws", "2", "--out", str(tmp_path / "out"), "--json"]
    assert cli.main(arguments) == 0
    results = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert json.loads((tmp_path / "out" / "dcs.json").read_text()) == results
    assert (tmp_path / "out" / "dcs.png").read_bytes().startswith(b"\x89PNG")
    errors, losses = ([row[name] for row in results["subsets"]] for name in ("error", "losses"))
    sizes = [row["images_per_class"] for row in results["subsets"]]
    assert len(errors) == 6
    expected = partial_spearman([loss[str(config)] for loss in losses], errors, sizes)
    assert results["scores"][str(config)]["dcs"] == expected
    monkeypatch.setattr(dcs, "own_loss", None)
    monkeypatch.setattr(setting, "judge", None)
    assert cli.main(arguments) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {**again, "cost": None} == {**results, "cost": None}
