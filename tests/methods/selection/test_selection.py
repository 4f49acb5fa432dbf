"""The methods as a whole: what they export, what they look at, and what they refuse."""

import dataclasses
import json
import re

import numpy as np
import pytest

from kip import cli, config, data, preprocess, sets
from kip.blocks import KernelBlocks
from kip.errors import ConfigError, DataError
from kip.experiment import Experiment
from kip.kernels import Architecture, kernel_function
from kip.methods.selection import greedy, rules, scores, spaces
from kip.methods.selection.points import Gram
from kip.methods.selection.selection import Selection
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
    "network": SMALL,
    "protocol": dataclasses.replace(PROTOCOLS["HL"], epochs=3),
    "validation_networks": 1,
    "test_networks": 1,
}
FEATURES = spaces.Features(RECORDING)
FC = spaces.KernelSpace(Architecture("FC", 1))
RULES = {
    "random": rules.Random(),
    "random of all": rules.Random(balanced=False),
    **{
        kind.__name__: kind()
        for kind in (rules.Herding, rules.KCenters, rules.Medoids, rules.FacilityLocation, rules.GraphCut)
    },
    "craig": rules.CRAIG(),
    "determinantal": rules.Determinantal(),
    "leverage": rules.Leverage(candidates=20),
    "features": rules.KCenters(FEATURES),
    "medoids of features": rules.Medoids(FEATURES, candidates=20),
    "gradients": rules.GraphCut(spaces.Gradients(RECORDING)),
    "glister": rules.GLISTER(RECORDING, candidates=20),
    "glister of each class": rules.GLISTER(RECORDING, on="class", last_layer="trained", candidates=20),
    "dual": rules.DUAL(scores.DUALScore(RECORDING, window=3)),
    "ccs": rules.CCS(scores.AUM(RECORDING), drop=0.2),
    "ccs of all": rules.CCS(scores.AUM(RECORDING), drop=0.2, balanced=False),
    "cad": rules.Hardest(scores.CAD(epochs=4)),
    "early cad": rules.Hardest(scores.EarlyCAD(RECORDING, epochs=6)),
    "cal": rules.Hardest(scores.CAL(RECORDING)),
    "cal_deepcore": rules.Easiest(scores.CALDeepCore(RECORDING)),
    "d2": rules.D2(scores.Forgetting(RECORDING)),
    "el2n": rules.Window(scores.EL2N(RECORDING), start=0.5),
    "el2n_sl": rules.Hardest(scores.EL2NSL(RECORDING, RECORDING)),
    "grand": rules.Hardest(scores.GraNd(RECORDING, epoch=1)),
    "dyn_unc": rules.Window(scores.DynUnc(RECORDING, window=3), start=0.5),
    **{
        kind.__name__: rules.Window(kind(RECORDING), start=0.5)
        for kind in (scores.Entropy, scores.LeastConfidence, scores.Margin)
    },
}
METHODS = {name: Selection(2, rule=rule, **QUICK) for name, rule in RULES.items()}
METHODS["pruned"] = Selection(pruned=0.9, rule=rules.Herding(), **QUICK)
OF_ALL = ("random of all", "ccs of all")


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
@pytest.mark.slow
def test_natural_images_are_chosen_with_their_indices_and_no_look_at_other_splits(name, two_problems, store, tmp_path):

    method, (problem, corrupted) = METHODS[name], two_problems
    choice = method.prepare(problem, store)
    initial = method.init(problem, choice)
    state, _ = method.step(problem, choice, initial)
    assert state.indices is not None
    assert state.weights is not None
    count = 20 if method.pruned is None else round(0.1 * len(problem.labels))
    assert len(state.indices) == pytest.approx(count, abs=5)
    assert len(state.inputs) == len(initial.inputs) == len(set(state.indices.tolist()))
    np.testing.assert_array_equal(state.inputs, problem.inputs[state.indices])
    np.testing.assert_array_equal(state.class_index, problem.labels[state.indices])
    np.testing.assert_allclose(state.labels, np.eye(10)[state.class_index] - 0.1, atol=1e-7)
    assert (np.diff(state.class_index) >= 0).all()
    if name not in OF_ALL and method.pruned is None:
        assert (np.bincount(state.class_index, minlength=10) == 2).all()
    assert (state.weights.sum() == len(problem.labels)) if name == "craig" else (state.weights == 1).all()
    again = method.prepare(corrupted, Store(tmp_path / "corrupted", show_progress=False))
    np.testing.assert_array_equal(again.indices, choice.indices)


@pytest.mark.slow
def test_a_run_chooses_without_validation_and_test_images(tmp_path, monkeypatch):
    """Both are corrupted, and the recording is made anew: the accuracy is another one, and the set the same."""
    original, made = train.data.load, {}

    def corrupted(*arguments):
        dataset = original(*arguments)
        inverted = [part._replace(images=255 - np.asarray(part.images)) for part in (dataset.validation, dataset.test)]
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
    method = Selection(3, rule=rules.Determinantal(FC, candidates=30), **QUICK)
    problem = two_problems[0]
    few = problem._replace(
        labels=problem.labels[problem.labels < 1], num_classes=1, inputs=problem.inputs[problem.labels < 1]
    )
    chosen = method.prepare(few, store).indices

    members = np.sort(generator(0, "candidates", 0).choice(len(few.labels), 30, replace=False))
    gram = np.asarray(kernel_function(FC.kernel)(few.inputs[members], few.inputs[members]))
    np.testing.assert_array_equal(chosen, members[greedy.determinantal(Gram(gram), 3)])


def test_a_random_choice_is_what_learning_methods_begin_with(two_problems, store):
    problem = two_problems[0]
    choice = METHODS["random"].prepare(problem, store)
    np.testing.assert_array_equal(problem.inputs[choice.indices], problem.natural_support(2).inputs)


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
        (rules.Herding, {"balanced": False}, "balanced"),
        (rules.Medoids, {"space": FC}, r"space\.kind: got 'kernel'; expected 'pixels', 'features'|space"),
        (rules.GraphCut, {"trade_off": -1.0}, "trade_off"),
        (rules.Herding, {"step_size": 1.0}, "unknown key 'step_size'"),
        (
            Selection,
            {"images_per_class": 5, "rule": rules.Herding(candidates=4)},
            "candidates; got 4; expected at least",
        ),
        (Selection, {"pruned": 0.5, "rule": rules.GLISTER(candidates=40)}, "candidates; got 40 with pruned=0.5"),
        (Selection, {"rule": "farthest"}, "rule"),
        (rules.DUAL, {"score": scores.EL2N()}, "score"),
        (scores.DUALScore, {"recording": Recording(epochs=5)}, "window of dual"),
        (scores.EL2N, {"epoch": 31}, "epoch of the score; got 31"),
        (scores.CAL, {"epoch": 3}, "unknown key 'epoch'"),
        (scores.CAD, {"epochs": 3}, "K of cad.*; got epochs=3; expected at least 4"),
        (scores.CAD, {"recording": Recording(epochs=8)}, "unknown key 'recording'"),
        (scores.AUM, {"teacher": Recording()}, "unknown key 'teacher'"),
        (rules.Window, {"start": 1.5}, "start"),
        (rules.CCS, {"drop": 1.0}, "drop"),
        (Selection, {"pruned": 1.0}, "pruned"),
    ],
)
def test_what_does_not_fit_is_refused_when_it_is_made(kind, options, message):
    with pytest.raises(ConfigError, match=message):
        kind(**options)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_rule_s_json_is_tagged_and_read_back(rule):
    method = Selection(1, rule=rule)
    form = method_form(method)
    assert form["rule"]["kind"] == rule.kind
    assert config.from_json(Selection, json.dumps(form), source="here") == method


def method_form(method):
    return config.to_dict(Experiment(method))["method"]


def test_a_rule_of_another_name_is_refused_with_those_that_there_are():
    form = method_form(Selection()) | {"rule": {"kind": "farthest"}}
    with pytest.raises(ConfigError, match=r"rule\.kind: got 'farthest'; expected 'random', 'herding', .*'d2'"):
        config.from_json(Selection, json.dumps(form), source="here")


@pytest.mark.parametrize("name", ["geometric", "pruning"])
def test_a_configuration_of_an_older_kip_is_refused_plainly(name):
    form = Experiment(Selection()).to_dict()
    form["method"] = {"name": name, "images_per_class": 1}
    with pytest.raises(ConfigError, match=rf"{name}.*an older kip.*cannot be read any more.*'selection' with a rule"):
        config.from_json(Experiment, json.dumps(form), source="config.json")


@pytest.mark.parametrize(
    ("given", "label", "row"),
    [
        (rules.Herding(FEATURES), "herding in features", "herding"),
        (rules.Herding(FC), "herding in FC1", "herding"),
        (rules.Easiest(scores.AUM()), "easiest by aum", "aum"),
        (rules.D2(), "d2 by forgetting", "d2"),
        (rules.DUAL(), "dual", "dual"),
        (rules.GLISTER(), "glister", "glister"),
    ],
)
def test_titles_and_tables_call_a_choice_by_its_rule(given, label, row):
    assert Selection(1, rule=given, network=SMALL).label == f"{label} (FC1 width=16)"
    assert rules.name(config.to_dict(given)) == row


@pytest.mark.parametrize(
    ("images_per_class", "rule", "message"),
    [
        (100, rules.Hardest(scores.EarlyCAD(RECORDING)), "recording.epochs; got 6"),
        (
            2,
            rules.Hardest(scores.EarlyCAD(RECORDING)),
            "K of cad.*; got 0.1.*: 10 epochs of 20 chosen images are as much",
        ),
        (2, rules.Hardest(scores.CAL(RECORDING, neighbours=5000)), "neighbours; got 5000"),
        (2, rules.Hardest(scores.CALDeepCore(RECORDING, neighbours=500)), "neighbours; got 500"),
        (2, rules.D2(scores.EL2N(RECORDING), neighbours=500), "neighbours; got 500"),
    ],
)
def test_what_does_not_fit_the_images_is_refused_before_networks_are_trained(
    images_per_class, rule, message, two_problems, store, monkeypatch
):
    monkeypatch.setattr(records, "train", None)
    protocol = dataclasses.replace(PROTOCOLS["HL"], epochs=10)
    method = Selection(images_per_class, rule=rule, **{**QUICK, "protocol": protocol})
    with pytest.raises(ConfigError, match=message):
        method.prepare(two_problems[0], store)


def test_the_command_line_offers_a_rule_s_own_options_and_no_others(capsys):
    with pytest.raises(SystemExit):
        cli.main(["distill", "selections:cifar10_d2", "--help"])
    shown = capsys.readouterr().out
    options = set(re.findall(r"--method\.rule\.([\w.-]+)", shown))
    assert {name for name in options if "." not in name} == {
        "drop",
        "neighbours",
        "gamma",
        "balanced",
        "no-balanced",
        "kind",
    }
    assert "score.last-epoch" in options
    assert "D2: the hardest images in turn" in shown


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
