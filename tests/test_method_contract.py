"""What every method promises, whatever it learns: refusal, a falling loss, resuming, export, evaluation.

That gradients are those of finite differences is shown for each in its own file: `distill/test_methods.py`,
`finite/test_ld.py`, `finite/test_frepo.py`, `finite/test_krr_st.py`, `finite/test_rfad.py`.
"""

import dataclasses
import json

import jax
import numpy as np
import pytest

from kip import checkpoint, config, export, train
from kip.blocks import KernelBlocks
from kip.distill import KIP, LabelSolve
from kip.errors import CheckpointError, ConfigError
from kip.evaluate import evaluate_set
from kip.experiment import METHODS, Experiment
from kip.finite.frepo import FRePo
from kip.finite.krr_st import KRRST
from kip.finite.label_baseline import LabelBaseline
from kip.finite.ld import LD
from kip.finite.learner import Training
from kip.finite.networks import Network
from kip.finite.pool import Optimizer, Pool
from kip.finite.rfad import RFAD
from kip.finite.teacher import Teacher
from kip.kernels import Architecture
from kip.krr import Ridge

FC = Architecture("FC", 1)
SMALL = Network("FC1", width=16)
QUICK = {"test_networks": 2, "validation_networks": 1}
METHOD_VALUES = {
    "KIP": KIP(1, kernels=(FC,), target_batch=60, steps=5),
    "Label Solve": LabelSolve(1, kernel=FC),
    "LD": LD(
        1, training=Training(network=SMALL, batch=5), window=2, target_batch=60, steps=5, learning_rate=0.02, **QUICK,
    ),
    "LD RR": LD(
        1, training=Training("ridge", network=SMALL, batch=5, rate=0.1), window=2, target_batch=60, steps=5,
        learning_rate=0.02, **QUICK,
    ),
    "DD": LD(
        1, learn="images", training=Training(network=SMALL, batch=5), window=2, target_batch=60, steps=5,
        learning_rate=0.05, **QUICK,
    ),
    "baseline": LabelBaseline(1, training=Training(network=SMALL, batch=5), stride=5, steps=5, **QUICK),
    "FRePo": FRePo(
        1, network=SMALL, pool=Pool(3, max_updates=2), steps=5, learning_rate=0.01, target_batch=60,
        evaluation_network=SMALL, evaluation_steps=5, **QUICK,
    ),
    "KRR-ST": KRRST(
        40, teacher=Teacher(SMALL, embedding=8, steps=5, batch=20, pad=1, flip=False), network=SMALL,
        pool=Pool(3, max_updates=2, optimizer=Optimizer("sgd", 0.01, momentum=0.9), loss="mean"), steps=5,
        learning_rate=0.03, target_batch=60, ridge=Ridge(1e-3, "trace_sum"), pretraining=Optimizer("sgd", 0.01),
        pretraining_steps=5, probe_images=50, **QUICK,
    ),
    "RFAD": RFAD(1, network=SMALL, networks=3, steps=5, learning_rate=0.03, target_batch=60, **QUICK),
}  # fmt: skip


def experiment(name):
    return Experiment(METHOD_VALUES[name], checkpoint_every=2)


@pytest.fixture(params=METHOD_VALUES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Uninterrupted runs, made once each."""
    made = {}

    def get(name):
        if name not in made:
            out = tmp_path_factory.mktemp("whole") / "run"
            made[name] = out, train.run(experiment(name), out, show_progress=False)
        return made[name]

    return get


def test_every_method_is_in_the_suite():
    assert {type(method) for method in METHOD_VALUES.values()} == set(METHODS)


def test_a_wrong_configuration_is_refused_when_it_is_made(name):
    kind = type(METHOD_VALUES[name])
    size = "images" if kind is KRRST else "images_per_class"
    for wrong in ({"stepz": 3}, {size: 0}, {"name": "another"}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            kind(**wrong)


def test_a_configuration_survives_json(name):
    whole = experiment(name)
    assert config.from_json(Experiment, json.dumps(whole.to_dict()), source="here") == whole


def test_steps_lower_the_loss(name, problem):
    """The mean loss of the last steps against the first ones, on target batches of 60 digits."""
    method = METHOD_VALUES[name]
    if name == "baseline":
        pytest.skip("it learns nothing; its accuracy is tested in finite/test_ld.py")
    steps = 1 if name == "Label Solve" else 60
    if steps > 1:
        method = dataclasses.replace(method, steps=steps)
        if isinstance(method, LD):
            method = dataclasses.replace(method, window=50)
    module = METHODS[type(method)]
    state, losses = module.init(method, problem), []
    for _ in range(steps):
        state, metrics = module.step(method, problem, state)
        losses.append(metrics["loss"])
    if name == "Label Solve":
        assert losses[0] < 0.04, "below half the variance of the targets, 0.045 an entry"
        return
    assert np.mean(losses[-10:]) < np.mean(losses[:10])


def test_states_have_a_constant_structure(name, problem):
    method = METHOD_VALUES[name]
    module = METHODS[type(method)]
    before = module.init(method, problem)
    after = before
    for _ in range(min(4, method.steps)):  # past a restart, and a reset of the pool
        after, _ = module.step(method, problem, after)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert np.shape(a) == np.shape(b)
        assert np.asarray(a).dtype == np.asarray(b).dtype


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


@pytest.mark.parametrize("at", [2, 4])
def test_a_killed_run_resumes_to_the_same_bits(name, at, finished, tmp_path, monkeypatch):
    whole, result = finished(name)
    if at > result.steps:
        pytest.skip("the method has one step")
    module, calls = METHODS[type(METHOD_VALUES[name])], []
    original = module.step

    def dying(*arguments):
        calls.append(1)
        if len(calls) == at:
            raise Killed
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "step", dying)
        with pytest.raises(Killed):
            train.run(experiment(name), tmp_path, show_progress=False)
    again = train.run(experiment(name), tmp_path, show_progress=False)
    assert (tmp_path / "distilled.npz").read_bytes() == (whole / "distilled.npz").read_bytes()
    assert again.test_accuracy == result.test_accuracy
    ours, theirs = (dict(np.load(out / "checkpoints" / f"{result.steps:06d}.npz")) for out in (tmp_path, whole))
    assert ours.keys() == theirs.keys()
    for key in ours.keys() - {"meta"}:  # which holds the time
        np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)


def test_another_configuration_is_refused(name, finished):
    out, _ = finished(name)
    with pytest.raises(CheckpointError, match="seed was 0 and is now 5"):
        train.run(dataclasses.replace(experiment(name), seed=5), out, show_progress=False)


def test_the_exported_set_is_that_of_the_best_checkpoint(name, finished):
    out, result = finished(name)
    distilled = export.load(out / "distilled.npz")
    state, _ = checkpoint.read(out / "checkpoints", result.exported_step)
    assert distilled.experiment == experiment(name)
    np.testing.assert_array_equal(distilled.images_preprocessed, state.images)
    np.testing.assert_array_equal(distilled.labels, state.labels)
    before = (out / "distilled.npz").read_bytes()
    train.export_run(out)
    assert (out / "distilled.npz").read_bytes() == before, "kip export writes the same"


def test_evaluation_of_the_exported_set_gives_the_run_s_accuracy(name, finished):
    out, result = finished(name)
    with KernelBlocks() as blocks:
        (score,) = evaluate_set(export.load(out / "distilled.npz"), blocks)
        (other,) = evaluate_set(export.load(out / "distilled.npz"), blocks, kernels=[Architecture("FC", 2)])
    assert score.test_accuracy == result.test_accuracy
    assert 0 <= other.test_accuracy <= 1
    if score.test_spread is not None:
        assert score.test_spread == result.paper_test_spread
