"""What every method promises, whatever it learns: refusal, a falling loss, resuming, export, evaluation.

That gradients are those of finite differences is shown for each in its own file: `kernel/test_kip.py`,
`unrolled/test_ld.py`, `features/test_frepo.py`, `features/test_krr_st.py`, `features/test_rcig.py`,
`features/test_rfad.py`, and for the matching methods in `matching/test_gradients.py`. Those that choose images have
none; their choices are tested in `selection`.
"""

import dataclasses
import json
import os
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest

from helpers.kinds import untyped
from kip import cli, config, data, machine, preprocess, sets
from kip.blocks import KernelBlocks
from kip.errors import CheckpointError, ConfigError
from kip.evaluate import evaluate_set
from kip.experiment import Experiment
from kip.kernels import Architecture, kernel_function
from kip.krr import Ridge
from kip.methods.contract import Method, import_all
from kip.methods.decoupled.base import Decoupled
from kip.methods.decoupled.cda import CDA
from kip.methods.decoupled.crops import Crops
from kip.methods.decoupled.dwa import DWA
from kip.methods.decoupled.edc import EDC
from kip.methods.decoupled.fadrm import FADRM
from kip.methods.decoupled.gvbsm import GVBSM
from kip.methods.decoupled.rded import RDED
from kip.methods.decoupled.sre2l import SRe2L
from kip.methods.features.frepo import FRePo
from kip.methods.features.krr_st import KRRST
from kip.methods.features.pool import Optimizer, Pool
from kip.methods.features.rcig import RCIG
from kip.methods.features.rfad import RFAD
from kip.methods.kernel.kip import KIP
from kip.methods.kernel.label_solve import LabelSolve
from kip.methods.matching.datm import DATM
from kip.methods.matching.dc import DC
from kip.methods.matching.dm import DM
from kip.methods.matching.dsa import DSA
from kip.methods.matching.experts import Experts
from kip.methods.matching.ftd import FTD
from kip.methods.matching.mtt import MTT
from kip.methods.matching.tesla import TESLA
from kip.methods.selection import rules, scores, spaces
from kip.methods.selection.selection import Selection
from kip.methods.unrolled.dd import DD
from kip.methods.unrolled.label_baseline import LabelBaseline
from kip.methods.unrolled.ld import LD
from kip.networks.model import Network
from kip.precision import float64
from kip.runs import checkpoint, folder
from kip.runs import loop as train
from kip.training.learner import Training
from kip.training.protocols import PROTOCOLS
from kip.training.records import Recording
from kip.training.self_supervised import Teacher
from kip.training.squeeze import Squeeze

FC = Architecture("FC", 1)
SMALL = Network("FC1", width=16)
QUICK: dict[str, Any] = {"test_networks": 2, "validation_networks": 1}
SHORT = dataclasses.replace(PROTOCOLS["DSA"], epochs=5)
EXPERTS = Experts(2, epochs=3, batch=200, learning_rate=0.1)
RECORDING = Recording(epochs=4, batch=200, augment="none")
TRAJECTORIES: dict[str, Any] = {
    "network": SMALL,
    "expert_epochs": 1,
    "last_start": 2,
    "student_steps": 5,
    "steps": 5,
    "learning_rate": 10.0,
    "student_rate": 0.1,
    "rate_learning_rate": 1e-4,
    "protocol": SHORT,
    **QUICK,
}
SQUEEZED = {
    "network": Network("FC1", width=16, norm="batch"),
    "squeeze": Squeeze(epochs=1, batch=200),
    "evaluation_network": SMALL,
    "protocol": SHORT,
    **QUICK,
}
TWO_NETWORKS = {
    "network": Network("ConvVec1", width=4, norm="batch"),
    "more_networks": (Network("FC1", width=16, norm="batch"),),
}
METHOD_VALUES: dict[str, Method[Any, Any]] = {
    "KIP": KIP(1, kernels=(FC,), target_batch=60, steps=5),
    "Label Solve": LabelSolve(1, kernel=FC),
    "LD": LD(
        1,
        training=Training(network=SMALL, batch=5),
        window=2,
        target_batch=60,
        steps=5,
        learning_rate=0.02,
        **QUICK,
    ),
    "LD RR": LD(
        1,
        training=Training("ridge", network=SMALL, batch=5, rate=0.1),
        window=2,
        target_batch=60,
        steps=5,
        learning_rate=0.02,
        **QUICK,
    ),
    "DD": LD(
        1,
        learn="images",
        training=Training(network=SMALL, batch=5),
        window=2,
        target_batch=60,
        steps=5,
        learning_rate=0.05,
        **QUICK,
    ),
    "baseline": LabelBaseline(1, training=Training(network=SMALL, batch=5), stride=5, steps=5, **QUICK),
    "FRePo": FRePo(
        1,
        network=SMALL,
        pool=Pool(3, max_updates=2),
        steps=5,
        learning_rate=0.01,
        target_batch=60,
        evaluation_network=SMALL,
        evaluation_steps=5,
        **QUICK,
    ),
    "KRR-ST": KRRST(
        40,
        teacher=Teacher(SMALL, embedding=8, steps=5, batch=20, pad=1, flip=False),
        network=SMALL,
        pool=Pool(3, max_updates=2, optimizer=Optimizer("sgd", 0.01, momentum=0.9), loss="mean"),
        steps=5,
        learning_rate=0.03,
        target_batch=60,
        ridge=Ridge(1e-3, "trace_sum"),
        pretraining=Optimizer("sgd", 0.01),
        pretraining_steps=5,
        probe_images=50,
        **QUICK,
    ),
    "RCIG": RCIG(
        1,
        network=dataclasses.replace(SMALL, activation="softplus"),
        pool=Pool(3, max_updates=4, loss="mean"),
        pool_updates=2,
        target_batch=60,
        steps=5,
        learning_rate=0.03,
        inner_steps=5,
        solver_steps=5,
        average=0.5,
        evaluation_network=SMALL,
        evaluation_steps=5,
        **QUICK,
    ),
    "RFAD": RFAD(1, network=SMALL, networks=3, steps=5, learning_rate=0.03, target_batch=60, **QUICK),
    "DC": DC(2, network=SMALL, outer_loop=2, inner_loop=2, real_batch=20, steps=5, protocol=SHORT, **QUICK),
    "DSA": DSA(1, network=SMALL, real_batch=20, steps=5, protocol=SHORT, **QUICK),
    "DM": DM(1, network=SMALL, real_batch=20, steps=5, learning_rate=0.1, protocol=SHORT, **QUICK),
    "MTT": MTT(1, **TRAJECTORIES, experts=EXPERTS),
    "TESLA": TESLA(1, **TRAJECTORIES, experts=EXPERTS),
    "FTD": FTD(1, **TRAJECTORIES, experts=dataclasses.replace(EXPERTS, sharpness=0.01, balance=0.3), average=0.5),
    "DATM": DATM(
        1,
        **{**TRAJECTORIES, "protocol": dataclasses.replace(SHORT, labels="own", loss="kl")},
        experts=EXPERTS,
        start_before=1,
        window_steps=3,
        label_learning_rate=1.0,
    ),
    "SRe2L": SRe2L(2, iterations=3, **SQUEEZED),
    "CDA": CDA(2, iterations=3, **SQUEEZED),
    "DWA": DWA(2, iterations=3, **SQUEEZED),
    "G-VBSM": GVBSM(2, together=2, iterations=3, **{**SQUEEZED, **TWO_NETWORKS}),
    "EDC": EDC(2, iterations=3, **{**SQUEEZED, **TWO_NETWORKS}),
    "FADRM": FADRM(2, iterations=4, stages=2, crops=Crops(20, count=2), **SQUEEZED),
    "RDED": RDED(1, crops=Crops(20, 2, 2), **SQUEEZED),
    "original DD": DD(2, network=SMALL, epochs=2, target_batch=60, steps=5, learning_rate=0.05, **QUICK),
    "SLDD": DD(2, network=SMALL, epochs=2, target_batch=60, steps=5, learning_rate=0.05, learn_labels=True, **QUICK),
    "CRAIG": Selection(2, rule=rules.CRAIG(spaces.Gradients(RECORDING)), network=SMALL, protocol=SHORT, **QUICK),
    "D2": Selection(
        2,
        rule=rules.D2(scores.Forgetting(RECORDING), drop=0.0),
        network=SMALL,
        protocol=SHORT,
        **QUICK,
    ),
}


def experiment(name):
    return Experiment(METHOD_VALUES[name], checkpoint_every=2)


ONE_STEP = ("Label Solve", "RDED")
VARIANTS = ("CDA", "DWA", "EDC", "DSA", "TESLA", "FTD", "SLDD")
"""Methods that are another one with other values of a few fields; with the long tests."""
COUSINS = ("LD RR", "DD", "RCIG", "RFAD", "MTT", "DATM", "G-VBSM", "FADRM", "original DD", "D2")
"""Methods of a family of which another one stands for all in the short tests; with the long ones."""


@pytest.fixture(
    params=[pytest.param(n, marks=pytest.mark.slow) if n in VARIANTS + COUSINS else n for n in METHOD_VALUES]
)
def name(request):
    return request.param


def shortly(*names):
    """Let these methods be in the short tests, and the others in the long ones."""
    return pytest.mark.parametrize(
        "name", [n if n in names else pytest.param(n, marks=pytest.mark.slow) for n in METHOD_VALUES]
    )


FEW = shortly("KIP", "DM", "RDED")
"""For what takes a run or two."""


@pytest.fixture
def store(shared_store):
    return shared_store


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
    import_all()
    ours = {kind for kind in Method.registry.values() if kind.__module__.startswith("kip.")}
    assert {type(method) for method in METHOD_VALUES.values()} == ours


REPLACEABLE = ("schedule_ends", "natural", "step_images")
"""Members of `Method` that have a default and that a method may replace; its other members are abstract."""


def test_methods_are_final_and_override_nothing_concrete():
    """A class is abstract or final: at most one abstract class is between a method and `Method`."""
    import_all()
    for kind in Method.registry.values():
        if not kind.__module__.startswith("kip.methods."):
            continue
        assert getattr(kind, "__final__", False), f"{kind.__name__} is not final"
        chain = [base for base in kind.__mro__ if issubclass(base, Method)]
        assert {base.__name__ for base in kind.__mro__ if base not in chain} == {"ABC", "Generic", "object"}
        assert len(chain) <= 3, f"{kind.__name__} inherits from Method through {chain[1:-1]}"
        for place, base in enumerate(chain):
            for name in vars(base):
                if (name.startswith("__") and name != "__post_init__") or name == "_abc_impl":
                    continue
                for above in chain[place + 1 :]:
                    is_concrete = name in vars(above) and not getattr(vars(above)[name], "__isabstractmethod__", False)
                    replaceable = above is Method and name in REPLACEABLE
                    assert replaceable or not is_concrete, f"{base.__name__}.{name} overrides {above}"


def test_an_option_that_datm_refused_is_read_from_older_files():
    given = config.to_dict(METHOD_VALUES["DATM"])
    older = {**experiment("DATM").to_dict(), "method": {**given, "start": "real", "latents": None}}
    assert config.from_json(Experiment, json.dumps(older), source="here") == experiment("DATM")


def test_a_wrong_configuration_is_refused_when_it_is_made(name):
    kind = type(METHOD_VALUES[name])
    size = "images" if kind is KRRST else "images_per_class"
    for wrong in ({"stepz": 3}, {size: 0}, {"name": "another"}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            untyped(kind)(**wrong)


def test_a_configuration_survives_json(name):
    whole = experiment(name)
    assert config.from_json(Experiment, json.dumps(whole.to_dict()), source="here") == whole


@shortly("KIP", "DM", "FRePo", "LD")
def test_steps_lower_the_loss(name, problem, store):
    """The mean loss of the last steps against the first ones, on target batches of 60 digits."""
    method = untyped(METHOD_VALUES[name])
    if name == "baseline":
        pytest.skip("it learns nothing; its accuracy is tested in unrolled/test_ld.py")
    if isinstance(method, Selection):
        pytest.skip("it chooses images; what it chooses is tested in selection")
    if name == "RDED":
        pytest.skip("it chooses in one step; what it chooses is tested in decoupled/test_decoupled.py")
    steps = 1 if name in ONE_STEP else 60
    if name == "G-VBSM":  # the target of its diversity moves and is not differentiated: that term may rise
        method = dataclasses.replace(method, diversity=0.0, roll=0, learning_rate=0.25)
    if isinstance(method, Decoupled):
        method = dataclasses.replace(method, iterations=steps)
        if isinstance(method, FADRM):
            method = dataclasses.replace(method, stages=1)  # a later one begins with a higher loss
    elif steps > 1:
        method = dataclasses.replace(method, steps=steps)
        if isinstance(method, LD):
            method = dataclasses.replace(method, window=50)
    method = untyped(method)
    prepared = method.prepare(problem, store)
    state, losses = method.init(problem, prepared), []
    for _ in range(steps):
        state, metrics = method.step(problem, prepared, state)
        losses.append(metrics["loss"])
    if name == "Label Solve":
        assert losses[0] < 0.04, "below half the variance of the targets, 0.045 an entry"
        return
    assert np.mean(losses[-10:]) < np.mean(losses[:10])


def test_states_have_a_constant_structure(name, problem, store):
    method = METHOD_VALUES[name]
    prepared = method.prepare(problem, store)
    before = method.init(problem, prepared)
    after = before
    for _ in range(min(4, method.steps)):  # past a restart, and a reset of the pool
        after, _ = method.step(problem, prepared, after)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert np.shape(a) == np.shape(b)
        assert np.asarray(a).dtype == np.asarray(b).dtype


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


@FEW
@pytest.mark.parametrize("at", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_a_killed_run_resumes_to_the_same_bits(name, at, finished, tmp_path, monkeypatch):
    whole, result = finished(name)
    if at > result.steps:
        pytest.skip("the method has one step")
    kind, calls = type(METHOD_VALUES[name]), []
    original = kind.step

    def dying(*arguments):
        calls.append(1)
        if len(calls) == at:
            raise Killed
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "step", dying)
        with pytest.raises(Killed):
            train.run(experiment(name), tmp_path, show_progress=False)
    again = train.run(experiment(name), tmp_path, show_progress=False)
    assert (tmp_path / "distilled.npz").read_bytes() == (whole / "distilled.npz").read_bytes()
    assert again.test_accuracy == result.test_accuracy
    ours, theirs = (dict(np.load(out / "checkpoints" / f"{result.steps:06d}.npz")) for out in (tmp_path, whole))
    assert ours.keys() == theirs.keys()
    for key in ours.keys() - {"meta"}:  # which holds the time
        np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)


@FEW
def test_another_configuration_is_refused(name, finished):
    out, _ = finished(name)
    with pytest.raises(CheckpointError, match="seed was 0 and is now 5"):
        train.run(dataclasses.replace(experiment(name), seed=5), out, show_progress=False)


@FEW
def test_the_exported_set_is_that_of_the_best_checkpoint(name, finished):
    out, result = finished(name)
    distilled = sets.load(out / "distilled.npz")
    state, _ = checkpoint.read(out / "checkpoints", result.exported_step)
    assert distilled.experiment == experiment(name)
    np.testing.assert_array_equal(distilled.images_preprocessed, state.inputs)
    np.testing.assert_array_equal(distilled.labels, state.labels)
    before = (out / "distilled.npz").read_bytes()
    folder.export_run(out)
    assert (out / "distilled.npz").read_bytes() == before, "kip export writes the same"


def accuracy_under_fc2(distilled):
    """Ridge regression of the test digits under FC2's NTK, written out; a ridge of the set's own where it has one."""
    dataset = data.load(distilled.origin.data)
    test = preprocess.fit(distilled.origin.preprocess, dataset.train.images).apply(dataset.test.images)
    kernel, support = untyped(kernel_function(Architecture("FC", 2))), distilled.images_preprocessed
    with float64():
        k_ss, k_ts = (np.asarray(kernel(*pair)) for pair in ((support, support), (test, support)))
    k_ss, k_ts = k_ss.astype(np.float64), k_ts.astype(np.float64)
    ridge = 1e-6 * np.trace(k_ss) / len(k_ss)
    predictions = k_ts @ np.linalg.solve(k_ss + ridge * np.eye(len(k_ss)), distilled.labels)
    return np.mean(predictions.argmax(axis=1) == dataset.test.labels)


@FEW
def test_evaluation_of_the_exported_set_gives_the_run_s_accuracy(name, finished):
    out, result = finished(name)
    distilled = sets.load(out / "distilled.npz")
    with KernelBlocks() as blocks:
        (score,) = evaluate_set(distilled, blocks)
        if distilled.origin.labels_are == "representations":
            with pytest.raises(ConfigError, match="representations"):
                evaluate_set(distilled, blocks, kernels=[Architecture("FC", 2)])
        else:
            (other,) = evaluate_set(distilled, blocks, kernels=[Architecture("FC", 2)])
            assert other.test_accuracy == pytest.approx(accuracy_under_fc2(distilled), abs=0.005)
    assert score.test_accuracy == result.test_accuracy
    if score.test_spread is not None:
        assert score.test_spread == result.paper_test_spread


ROWS = """
import json
from pathlib import Path

from kip import config
from kip.experiment import Experiment

FOLDER = Path(__file__).parent
rows = {path.stem: config.from_json(Experiment, path.read_text(), source=path.name) for path in FOLDER.glob("*.json")}
"""


@pytest.fixture(scope="module")
def by_two_processes(tmp_path_factory):
    """The folder of the runs of all methods, which one command made with two processes and a cache of their own."""
    folder = tmp_path_factory.mktemp("jobs")
    for name in METHOD_VALUES:
        (folder / f"{name.replace(' ', '_')}.json").write_text(json.dumps(experiment(name).to_dict()))
    (folder / "table.py").write_text(ROWS)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "kip.cli",
            "distill",
            f"{folder / 'table.py'}:*",
            "--jobs",
            "2",
            "--out",
            folder / "out",
        ],
        env={**os.environ, "KIP_CACHE_DIR": str(folder / "cache")},
        check=False,  # each method's test says whether its run ended
    )
    return folder / "out"


@pytest.mark.slow
@pytest.mark.skipif(machine.cores() < 2, reason="two processes need two cores")
def test_two_processes_make_the_set_of_one(name, finished, by_two_processes):
    whole, _ = finished(name)
    out = by_two_processes / f"table.py-{name.replace(' ', '_')}"
    assert (out / "distilled.npz").read_bytes() == (whole / "distilled.npz").read_bytes()


COMMANDS = {
    "show": ["show", "{run}", "--out", "{out}/set.png"],
    "report": ["report", "{run}", "--out", "{out}/page.html"],
    "status": ["status", "{run}"],
    "export": ["export", "{run}", "--format", "folder", "--out", "{out}/set"],
    "analyze": ["analyze", "{run}", "--kernel", "FC1", "--targets", "40", "--repeats", "1", "--out", "{out}/a.json"],
    "transfer": [
        "transfer", "{run}", "--network", "FC1 width=8", "--steps", "4", "--evaluations", "1", "--factors", "1",
        "--l2", "0", "--search-seeds", "1", "--seeds", "2", "--validation", "50", "--out", "{out}/t.json",
    ],
    "compare": [
        "compare", "{run}", "--protocols", "HL", "OWN", "--networks", "FC1 width=8", "--epochs", "2", "--seeds", "2",
        "--baselines", "random", "--out", "{out}/table",
    ],
    "pretraining": [
        "pretraining", "{run}/distilled.npz", "--data", "digits", "--how", "probe", "--starts", "distilled",
        "--networks", "FC1 width=8", "--labelled", "50", "--seeds", "1", "--out", "{out}/p.json",
    ],
}  # fmt: skip
"""Every command that takes a set or a run, as small as it goes."""
NEED_CLASSES = ("analyze", "transfer", "compare")
"""Commands that read labels as classes, and refuse representations."""
READ_A_SET = ("analyze", "transfer", "compare", "pretraining")
"""Commands that see of a method no more than the set that it made."""
KINDS_OF_SETS = ("KIP", "LD", "FRePo", "KRR-ST", "MTT", "DATM", "G-VBSM", "RDED", "CRAIG", "D2")
"""Methods whose sets differ in what their labels are, in who labels them, or in what they say of their images."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "command"),
    [(name, each) for name in METHOD_VALUES for each in COMMANDS if each not in READ_A_SET or name in KINDS_OF_SETS],
)
def test_every_command_takes_the_sets_of_every_method(name, command, finished, tmp_path, capsys):
    run, _ = finished(name)
    arguments = [part.format(run=run, out=tmp_path) for part in COMMANDS[command]]
    status = cli.main([*arguments, "--json"])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    if METHOD_VALUES[name].labels_are == "representations" and command in NEED_CLASSES:
        assert status == 2
        assert "representations" in told["error"]["problem"] + told["error"]["got"]
        return
    assert status == 0, told
    if "--out" in arguments:
        assert list(tmp_path.iterdir())
    scores = {"transfer": ["test_accuracy"], "compare": ["cells"], "pretraining": ["cells"], "analyze": ["distilled"]}
    assert all(told.get(key) is not None for key in scores.get(command, [])), told


NO_OWN_LOSS = ("LD RR", "baseline", "KRR-ST", "RCIG", "FTD", "DATM", "RDED", "CRAIG", "D2")
"""Methods that learn nothing, whose first labels are not made from classes, or whose first step does not look at the
images that it would export (RCIG and FTD export an average)."""


@pytest.mark.slow
def test_the_correlation_of_a_method_s_loss_is_measured_or_refused(name, tmp_path, capsys):
    given = tmp_path / "method.json"
    given.write_text(json.dumps(experiment(name).to_dict()))
    status = cli.main(
        [
            "dcs", str(given), "--per-class", "2", "4", "--subsets", "4", "--draws", "1", "--network", "FC1 width=8",
            "--epochs", "2", "--out", str(tmp_path / "dcs"), "--json",
        ]
    )  # fmt: skip
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    if name in NO_OWN_LOSS:
        assert status == 2
        assert told["error"]["remedy"] == "Leave it out."
        return
    assert status == 0, told
    losses = [subset["losses"][str(given)] for subset in told["subsets"]]
    assert np.isfinite(losses).all()
    assert len(set(losses)) == len(losses), "the loss looks at the set"
    assert str(given) in told["scores"]
