"""Finding experiments by name, their JSON form, and what makes two runs the same."""

import dataclasses
import json

import pytest

import kip
from helpers.kinds import of_kind, untyped
from kip import config, experiment
from kip.data import Augment, Data
from kip.errors import ConfigError
from kip.experiment import Experiment, Reference
from kip.kernels.architecture import RBF, Architecture, Laplace, Stax
from kip.krr import Ridge
from kip.methods.kernel.kip import KIP
from kip.methods.kernel.label_solve import LabelSolve
from kip.preprocess import Preprocess

NAMES = experiment.names()
METHOD = KIP(
    images_per_class=3,
    learn_labels=False,
    target_batch=None,
    kernels=(Architecture("Myrtle", 7, get="nngp"), RBF(2.0), Laplace(), Stax("mine.py:kernel", entry_bytes=5)),
    ridge=Ridge(0.1, "absolute"),
    reduction="sum",
)
ONE_OF_EACH = Experiment(
    method=METHOD,
    data=Data("cifar10", validation=0, split_seed=4),
    preprocess=Preprocess("zca_frepo", regularization=1.0),
    augment=Augment("autoaugment_cifar", fraction=0.25),
    seed=3,
    patience=2,
    reference=Reference("a paper", 0.5, 0.01),
)


def test_names_are_unique_and_tables_have_one_for_each_row():
    assert len(set(NAMES)) == len(NAMES)
    assert "digits_convnet" in NAMES
    assert "table_a5:ipc10_plain" in NAMES
    assert "table_a5" not in NAMES
    assert not [name for name in NAMES if name.startswith("_")]


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_config_loads_and_its_json_form_gives_it_back(name, tmp_path):
    loaded = experiment.load(name)
    assert isinstance(loaded, Experiment)
    assert experiment.load(name) == loaded
    path = tmp_path / "config.json"
    path.write_text(json.dumps(loaded.to_dict()))
    assert experiment.load(str(path)) == loaded


@pytest.mark.parametrize("stem", sorted({name.partition(":")[0] for name in NAMES}))
def test_a_shipped_config_says_what_it_is(stem):
    assert len(experiment.describe(stem)) > 20


def test_every_kind_of_value_survives_json():
    text = json.dumps(ONE_OF_EACH.to_dict())
    back = config.from_json(Experiment, text, source="here")
    assert back == ONE_OF_EACH
    assert [type(kernel) for kernel in of_kind(back.method, KIP).kernels] == [Architecture, RBF, Laplace, Stax]


def test_a_path_is_found_from_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import kip\nrows = {'a': kip.Experiment(kip.KIP()), 'b': kip.Experiment(kip.LabelSolve())}"
    )
    monkeypatch.chdir(tmp_path)
    assert experiment.load("mine.py:a").method == KIP()
    assert experiment.load(f"{tmp_path}/mine.py:b").method == LabelSolve()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nonesuch", "no config 'nonesuch'; expected a name that `kip configs` lists, or a path"),
        ("digit_convnet", "no config 'digit_convnet'.*Did you mean digits_convnet\\?$"),
        ("nonesuch:row", "no config 'nonesuch'"),
        ("_paper", "no config '_paper'|config = None"),
        ("", "no config ''"),
        ("table_a5", "row of the config 'table_a5'.*ipc10_plain"),
        ("table_a5:ipc5", "'ipc5'.*ipc10_plain"),
        ("digits_convnet:row", "'digits_convnet:row'; got a file without rows"),
        ("missing.json", r"cannot read the config missing\.json; got No such file"),
    ],
)
def test_a_name_that_is_none_is_refused(name, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=words):
        experiment.load(name)


def test_a_python_config_must_hold_an_experiment(tmp_path):
    (tmp_path / "other.py").write_text("config = 3")
    with pytest.raises(ConfigError, match=r"other\.py.*got config = 3; expected .*kip\.Experiment"):
        experiment.load(str(tmp_path / "other.py"))
    (tmp_path / "table.py").write_text("rows = {'one': 3}")
    with pytest.raises(ConfigError, match=r"table\.py:one.*got one = 3"):
        experiment.load(str(tmp_path / "table.py") + ":one")


def test_an_error_inside_a_python_config_names_the_file_and_the_cause(tmp_path):
    (tmp_path / "broken.py").write_text("import kip\nconfig = kip.Experiment(kip.KIP(steps=0))")
    with pytest.raises(ConfigError, match=r"in broken\.py: invalid KIP: steps: got 0"):
        experiment.load(str(tmp_path / "broken.py"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: untyped(KIP)(stepz=3), "invalid KIP: unknown key 'stepz'.*lists the keys"),
        (lambda: untyped(KIP)("two"), "images_per_class: got 'two'"),
        (lambda: KIP(steps=True), "steps: got True"),
        (lambda: KIP(kernels=()), "kernels.*at least 1 item"),
        (lambda: KIP(kernels=(RBF(), RBF())), "the same kernel twice"),
        (lambda: KIP(learning_rate=0.0), "learning_rate: got 0.0"),
        (lambda: untyped(Experiment)(), "missing key 'method'"),
        (lambda: untyped(Experiment)(KIP(), seed="0"), "seed: got '0'"),
        (lambda: untyped(Experiment)(RBF()), "method; got RBF"),
        (lambda: Experiment(LabelSolve(), augment=Augment("rotate_shift")), "augment with the method .label_solve."),
        (lambda: Reference("a", 46.7), "accuracy: got 46.7; input should be less than or equal to 1"),
        (lambda: KIP(learning_rate=float("inf")), "finite"),
        (lambda: Ridge(float("nan")), "finite"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_when_it_is_made(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


def test_all_faults_are_named_at_once():
    with pytest.raises(ConfigError, match=r"steps: got 0.*learning_rate: got '1'.*unknown key 'stepz'"):
        untyped(KIP)(steps=0, learning_rate="1", stepz=3)


def test_values_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        untyped(ONE_OF_EACH).seed = 1


def test_identity_ignores_the_reference_and_the_step_limit_and_nothing_else():
    same = dataclasses.replace(
        ONE_OF_EACH,
        reference=None,
        method=dataclasses.replace(METHOD, steps=METHOD.steps + 1),
    )
    assert same != ONE_OF_EACH
    assert same.identity() == ONE_OF_EACH.identity()
    other = [
        dataclasses.replace(ONE_OF_EACH, seed=4),
        dataclasses.replace(ONE_OF_EACH, preprocess=Preprocess("zca")),
        dataclasses.replace(ONE_OF_EACH, data=Data("cifar10", validation=0, split_seed=5)),
        dataclasses.replace(ONE_OF_EACH, augment=Augment()),
        dataclasses.replace(ONE_OF_EACH, blocks=kip.Blocks(dtype="float64")),
        dataclasses.replace(ONE_OF_EACH, method=dataclasses.replace(METHOD, learn_labels=True)),
        dataclasses.replace(ONE_OF_EACH, method=dataclasses.replace(METHOD, ridge=Ridge())),
    ]
    identities = [json.dumps(made.identity(), sort_keys=True) for made in [ONE_OF_EACH, *other]]
    assert len(set(identities)) == len(identities)


def test_identity_of_label_solve_has_no_step_limit_to_ignore():
    assert Experiment(LabelSolve()).identity()["method"] == config.to_dict(LabelSolve())


def test_label_solve_takes_over_what_it_shares_with_kip():
    kernel = Architecture("FC", 2)
    solved = experiment.with_label_solve(
        dataclasses.replace(ONE_OF_EACH, method=dataclasses.replace(METHOD, kernels=(kernel,)))
    )
    assert solved.method == LabelSolve(3, kernel=kernel, ridge=Ridge(0.1, "absolute"))
    assert solved.augment.policy == "none"
    assert solved.reference is None
    for name in ("data", "preprocess", "blocks", "seed"):
        assert getattr(solved, name) == getattr(ONE_OF_EACH, name)


def test_label_solve_of_label_solve_is_itself():
    already = Experiment(LabelSolve(2), reference=Reference("a paper", 0.5))
    assert experiment.with_label_solve(already) is already


def test_label_solve_takes_one_kernel():
    with pytest.raises(ConfigError, match="method for Label Solve; got Myrtle7 NNGP; expected KIP with one kernel"):
        experiment.with_label_solve(ONE_OF_EACH)


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        (Reference("paper, table 1", 0.855, 0.001), "85.5 +- 0.1 % (paper, table 1)"),
        (Reference("notebook", 0.4699), "47.0 % (notebook)"),
    ],
)
def test_a_reference_reads_in_percent(reference, text):
    assert str(reference) == text


def test_a_pattern_stands_for_the_rows_that_match_it(tmp_path):
    assert experiment.matching("coresets:mnist_random_*") == [
        "coresets:mnist_random_ipc1",
        "coresets:mnist_random_ipc10",
    ]
    assert len(experiment.matching("coresets:*")) == len(experiment._run(experiment._folder() / "coresets.py")["rows"])
    for name in ("mnist_fc1_10", "coresets:mnist_random_ipc1", "runs/a set.npz", "mine.py:a"):
        assert experiment.matching(name) == [name]
    for name in ("coresets:nothing_*", "mnist_fc1_10:*", "no_such_file:*"):
        with pytest.raises(ConfigError, match="rows of the config"):
            experiment.matching(name)
