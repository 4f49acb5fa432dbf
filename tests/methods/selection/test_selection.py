"""The methods as a whole: what they export, what they look at, and what they refuse."""

import dataclasses
import json

import numpy as np
import pytest

from kip import data, preprocess, sets
from kip.blocks import KernelBlocks
from kip.errors import ConfigError, DataError
from kip.experiment import Experiment
from kip.kernels import Architecture, kernel_function
from kip.methods.selection import geometric, greedy
from kip.methods.selection.geometric import Geometric
from kip.methods.selection.points import Gram
from kip.methods.selection.pruning import Pruning
from kip.networks import Network
from kip.rng import generator
from kip.runs import loop as train
from kip.runs.setup import problem_of
from kip.storage.artefacts import Store
from kip.training import records
from kip.training.protocols import PROTOCOLS
from kip.training.records import Recording

SMALL = Network("FC1", width=16)
RECORDING = Recording(epochs=6, batch=200, seeds=2, augment="none")
QUICK = {
    "network": SMALL, "recording": RECORDING, "protocol": dataclasses.replace(PROTOCOLS["HL"], epochs=3),
    "validation_networks": 1, "test_networks": 1,
}  # fmt: skip
METHODS = {
    "random": Geometric(2, by="random", **QUICK),
    "random of all": Geometric(2, by="random", balanced=False, **QUICK),
    **{by: Geometric(2, by=by, **QUICK) for by in geometric.By.__args__ if by not in ("random", "leverage", "glister")},
    "leverage": Geometric(2, by="leverage", candidates=20, **QUICK),
    "network": Geometric(2, by="k_centers", space="network", **QUICK),
    "gradients": Geometric(2, by="graph_cut", space="gradients", **QUICK),
    "glister": Geometric(2, by="glister", space="gradients", candidates=20, **QUICK),
    "glister of each class": Geometric(
        2, by="glister", space="gradients", glister_on="class", last_layer="trained", candidates=20, **QUICK
    ),
    "pruned": Geometric(pruned=0.9, by="herding", **QUICK),
    "dual": Pruning(2, score="dual", keep="beta", window=3, **QUICK),
    "ccs": Pruning(2, score="aum", keep="strata", drop=0.2, **QUICK),
    "ccs of all": Pruning(2, score="aum", keep="strata", drop=0.2, balanced=False, **QUICK),
    "cad": Pruning(2, score="cad", epoch=4, **{**QUICK, "recording": Recording()}),
    "early cad": Pruning(2, score="cad", epoch=6, compute_aligned=False, **QUICK),
    "cal": Pruning(2, score="cal", **QUICK),
    "cal_deepcore": Pruning(2, score="cal_deepcore", keep="easiest", **QUICK),
    "d2": Pruning(2, score="forgetting", keep="graph", drop=0.4, neighbours=5, **QUICK),
    "el2n_sl": Pruning(2, score="el2n_sl", teacher=RECORDING, **QUICK),
    "grand": Pruning(2, score="grand", epoch=1, **QUICK),
    **{
        score: Pruning(2, score=score, keep="window", start=0.5, window=3, **QUICK)
        for score in ("dyn_unc", "el2n", "entropy", "least_confidence", "margin")
    },
}  # fmt: skip


@pytest.fixture
def store(tmp_path, tmp_path_factory, monkeypatch):
    """A store whose choices are the test's own, and whose recordings all of these tests share."""
    monkeypatch.setenv("KIP_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "recordings"))
    return Store(tmp_path / "artefacts", show_progress=False)


@pytest.fixture(scope="module")
def two_problems():
    """The digits as a run gives them to a method, and with noise as validation and test images."""
    dataset = data.load(data.Data("digits"))
    noise = np.random.default_rng(0)
    parts = {
        part: split._replace(
            images=noise.integers(0, 255, split.images.shape).astype(np.uint8), labels=noise.permutation(split.labels)
        )
        for part, split in (("validation", dataset.validation), ("test", dataset.test))
    }
    transform = preprocess.fit(preprocess.Preprocess("standardize"), dataset.train.images)
    blocks = KernelBlocks()
    made = [
        problem_of(Experiment(METHODS["random"]), each, transform, blocks, None)
        for each in (dataset, dataset._replace(**parts))
    ]
    return made


@pytest.mark.parametrize("name", METHODS)
def test_natural_images_are_chosen_with_their_indices_and_no_look_at_other_splits(name, two_problems, store, tmp_path):

    method, (problem, corrupted) = METHODS[name], two_problems
    choice = method.prepare(problem, store)
    initial = method.init(problem, choice)
    state, _ = method.step(problem, choice, initial)
    count = 20 if method.pruned is None else round(0.1 * len(problem.labels))
    assert len(state.indices) == pytest.approx(count, abs=5)
    assert len(state.inputs) == len(initial.inputs) == len(set(state.indices.tolist()))
    np.testing.assert_array_equal(state.inputs, problem.inputs[state.indices])
    np.testing.assert_array_equal(state.class_index, problem.labels[state.indices])
    np.testing.assert_allclose(state.labels, np.eye(10)[state.class_index] - 0.1, atol=1e-7)
    assert (np.diff(state.class_index) >= 0).all()
    if method.balanced and method.pruned is None:
        assert (np.bincount(state.class_index, minlength=10) == 2).all()
    assert (state.weights.sum() == len(problem.labels)) if name == "craig" else (state.weights == 1).all()
    again = method.prepare(corrupted, Store(tmp_path / "corrupted", show_progress=False))
    np.testing.assert_array_equal(again.indices, choice.indices)


def test_a_run_chooses_without_validation_and_test_images(tmp_path, monkeypatch):
    """Both are corrupted, and the recording is made anew: the accuracy is another one, and the set the same."""
    original, made = train.data.load, {}

    def corrupted(*arguments):
        dataset = original(*arguments)
        inverted = [part._replace(images=255 - part.images) for part in (dataset.validation, dataset.test)]
        return dataset._replace(validation=inverted[0], test=inverted[1])

    for name, load in (("clean", original), ("corrupted", corrupted)):
        monkeypatch.setenv("KIP_CACHE_DIR", str(tmp_path / name / "cache"))
        monkeypatch.setattr(train.data, "load", load)
        result = train.run(Experiment(METHODS["ccs"]), tmp_path / name / "run", show_progress=False)
        made[name] = result, sets.load(tmp_path / name / "run" / "distilled.npz")
    assert made["clean"][0].test_accuracy != made["corrupted"][0].test_accuracy
    assert made["clean"][1].metadata["indices"] == made["corrupted"][1].metadata["indices"]
    np.testing.assert_array_equal(made["clean"][1].images, made["corrupted"][1].images)


def test_a_choice_in_a_kernel_s_feature_space_is_that_of_its_gram_matrix(two_problems, store):
    method = Geometric(3, by="determinantal", space="kernel", kernel=Architecture("FC", 1), candidates=30, **QUICK)
    problem = two_problems[0]
    few = problem._replace(
        labels=problem.labels[problem.labels < 1], num_classes=1, inputs=problem.inputs[problem.labels < 1]
    )
    chosen = method.choose(few, store).indices

    members = np.sort(generator(0, "candidates", 0).choice(len(few.labels), 30, replace=False))
    gram = np.asarray(kernel_function(method.kernel)(few.inputs[members], few.inputs[members]))
    np.testing.assert_array_equal(chosen, members[greedy.determinantal(Gram(gram), 3)])


def test_a_random_choice_is_what_learning_methods_begin_with(two_problems, store):
    problem = two_problems[0]
    choice = METHODS["random"].prepare(problem, store)
    np.testing.assert_array_equal(problem.inputs[choice.indices], problem.natural_support(2).images)


def test_one_recording_serves_several_scores(two_problems, store, monkeypatch):
    calls = []
    original = records.train
    monkeypatch.setattr(records, "train", lambda *a, **k: calls.append(k["artefact"].path) or original(*a, **k))
    for name in ("el2n", "dual"):
        METHODS[name].prepare(two_problems[0], store)
    assert len(calls) == 4
    assert len(set(calls)) == RECORDING.seeds


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Geometric, {"by": "herding", "balanced": False}, "balanced"),
        (Geometric, {"by": "medoids", "space": "kernel"}, "space of medoids"),
        (Geometric, {"by": "glister"}, "space of glister"),
        (Geometric, {"images_per_class": 5, "candidates": 4}, "candidates"),
        (Geometric, {"by": "farthest"}, "by"),
        (Pruning, {"score": "el2n", "keep": "beta"}, "score with keep='beta'"),
        (Pruning, {"score": "dual", "recording": Recording(epochs=5)}, "window of dual"),
        (Pruning, {"epoch": 31}, "epoch: got 31|epoch; got 31"),
        (Pruning, {"score": "cal", "epoch": 3}, "epoch with score='cal'"),
        (Pruning, {"score": "cad", "epoch": 3}, "K of cad.*; got epoch=3; expected at least 4"),
        (Pruning, {"score": "cad", "recording": Recording(epochs=8)}, "recording of cad; got epochs=8"),
        (Pruning, {"compute_aligned": False}, "compute_aligned"),
        (Pruning, {"drop_by": "el2n"}, "drop_by; got 'el2n' with drop=0"),
        (Pruning, {"teacher": Recording()}, "teacher; got one, with score='el2n'"),
        (Geometric, {"glister_on": "class"}, "glister_on"),
        (Geometric, {"last_layer": "trained"}, "last_layer"),
        (Pruning, {"keep": "window", "start": 1.5}, "start"),
        (Pruning, {"pruned": 1.0}, "pruned"),
    ],
)
def test_what_does_not_fit_is_refused_when_it_is_made(kind, options, message):
    with pytest.raises(ConfigError, match=message):
        kind(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score": "cad", "images_per_class": 100, "compute_aligned": False}, "recording.epochs; got 6"),
        (
            {"score": "cad", "compute_aligned": False},
            "K of cad.*; got 0.1.*: 10 epochs of 20 chosen images are as much",
        ),
        ({"score": "cal", "neighbours": 5000}, "neighbours; got 5000"),
        ({"score": "cal_deepcore", "neighbours": 500}, "neighbours; got 500"),
        ({"score": "el2n", "keep": "graph", "neighbours": 500}, "neighbours; got 500"),
    ],
)
def test_what_does_not_fit_the_images_is_refused_before_networks_are_trained(
    options, message, two_problems, store, monkeypatch
):
    monkeypatch.setattr(records, "train", None)
    protocol = dataclasses.replace(PROTOCOLS["HL"], epochs=10)
    method = Pruning(**{"images_per_class": 2, **QUICK, "protocol": protocol, **options})
    with pytest.raises(ConfigError, match=message):
        method.prepare(two_problems[0], store)


def test_the_exported_set_says_which_images_were_chosen(tmp_path):
    result = train.run(Experiment(METHODS["craig"]), tmp_path, show_progress=False)
    distilled = sets.load(tmp_path / "distilled.npz")
    dataset = data.load(data.Data("digits"))
    chosen = np.array(distilled.metadata["indices"])
    np.testing.assert_allclose(distilled.images * 255, dataset.train.images[chosen], atol=1e-3)
    np.testing.assert_array_equal(distilled.class_index, dataset.train.labels[chosen])
    assert sum(distilled.metadata["weights"]) == len(dataset.train.labels)
    assert result.exported_step == result.steps == 1
    arrays = dict(np.load(tmp_path / "distilled.npz"))
    arrays["metadata"] = json.dumps({**distilled.metadata, "indices": "all"})
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DataError, match="indices"):
        sets.load(tmp_path / "bad.npz")
