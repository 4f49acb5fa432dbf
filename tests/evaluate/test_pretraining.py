"""Pre-training on a set, random images or nothing, judged by three protocols on a second data set."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kip import cli
from kip.data import Data
from kip.errors import ConfigError, ShapeError
from kip.evaluate import embedding
from kip.evaluate.pretraining import Pretraining, pretraining
from kip.experiment import Experiment
from kip.kernels.architecture import Architecture
from kip.methods.features.krr_st import KRRST
from kip.methods.features.pool import Optimizer, Pool
from kip.methods.kernel.kip import KIP
from kip.networks import Model
from kip.networks.model import Network
from kip.runs import loop
from kip.sets.distilled import load
from kip.training.recipe import Recipe
from kip.training.self_supervised import Teacher
from kip.training.supervised import Labeller, train

SMALL = Network("FC1", width=16)
DIGITS = Data("digits")


@pytest.fixture(scope="module")
def krr_st(tmp_path_factory):
    method = KRRST(
        20,
        teacher=Teacher(SMALL, embedding=8, steps=20, batch=40, pad=1, flip=False),
        network=SMALL,
        pool=Pool(2, max_updates=2, optimizer=Optimizer("sgd", 0.01), loss="mean"),
        steps=2,
        target_batch=50,
        pretraining=Optimizer("sgd", 0.01),
        pretraining_steps=5,
        probe_images=50,
        test_networks=1,
    )
    out = tmp_path_factory.mktemp("krr_st") / "run"
    loop.run(Experiment(method, checkpoint_every=2), out, show_progress=False)
    return out / "distilled.npz"


@pytest.fixture(scope="module")
def kip_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("kip") / "run"
    method = KIP(images_per_class=2, target_batch=200, steps=3, kernels=(Architecture("FC", 1),))
    loop.run(Experiment(method), out, show_progress=False)
    return out


@pytest.mark.slow
def test_each_start_gives_its_own_networks(krr_st):
    starts = ("distilled", "random", "random-classes", "none")
    config = Pretraining(DIGITS, starts=starts, seeds=2, labelled=100)
    cells = pretraining([krr_st], config)
    assert tuple(cell.start for cell in cells) == starts
    for cell in cells:
        assert (cell.how, cell.candidate, len(cell.accuracies)) == ("probe", "run", 2)
        assert min(cell.accuracies) > 0.3, "features of digits, whatever the network, classify some"
        assert cell.mean == pytest.approx(np.mean(cell.accuracies))
        assert cell.deviation == pytest.approx(np.std(cell.accuracies, ddof=1))
    assert len({tuple(cell.accuracies) for cell in cells}) == len(starts)
    assert pretraining([krr_st], config) == cells


@pytest.mark.slow
def test_fine_tuning_moves_the_whole_network_from_where_pretraining_left_it(krr_st):
    tuned, fresh = pretraining(
        [krr_st],
        Pretraining(DIGITS, how=("fine-tune",), starts=("distilled", "none"), steps=60, seeds=1, labelled=200),
    )
    assert tuned.mean != fresh.mean
    assert min(tuned.mean, fresh.mean) > 0.5
    one_step = Pretraining(DIGITS, how=("fine-tune",), starts=("distilled",), steps=1, seeds=1, labelled=200)
    assert pretraining([krr_st], one_step)[0].mean < tuned.mean


@pytest.mark.slow
def test_a_set_of_any_method_and_any_network_has_its_rows(kip_run):
    networks = (Network("FC1", width=16), Network("ConvNet-D3", width=4))
    config = Pretraining(
        DIGITS, how=("probe", "fine-tune"), starts=("random", "none"), networks=networks, steps=2, seeds=1, labelled=100
    )
    cells = pretraining([kip_run], config)
    assert [(cell.network, cell.how, cell.start) for cell in cells] == [
        (network.label, how, start)
        for network in networks
        for start in ("random", "none")
        for how in ("probe", "fine-tune")
    ]


@pytest.mark.slow
def test_data_free_kd_learns_the_second_data_set_without_its_images(kip_run):
    config = Pretraining(
        DIGITS,
        how=("data-free-kd",),
        starts=("random", "none"),
        networks=(Network("FC1", width=64),),
        steps=400,
        teacher=Network("FC1", width=64, norm="batch"),
        teacher_steps=200,
        seeds=1,
    )
    natural, noise = pretraining([kip_run], config)
    assert natural.mean > 0.4, "20 natural digits with a teacher's answers"
    assert 0.02 < noise.mean < natural.mean


def test_the_teachers_answers_come_with_the_statistics_of_the_batch(rng):
    images = rng.normal(3.0, 2.0, (8, 4, 4, 1)).astype(np.float32)  # far from the statistics of a fresh network
    model = Model(Network("FC1", width=8, norm="batch"), 3)
    variables = model.init(jax.random.key(0), images.shape[1:])
    recipe = Recipe("kl", steps=1, evaluations=1, keep="last")
    losses = {}
    for statistics in (False, True):
        teacher = Labeller(model, variables, statistics)
        begin = lambda fresh: jax.tree.map(jnp.asarray, variables)  # noqa: E731
        trained = train(
            model,
            recipe,
            jax.random.key(1)[None],
            np.array([0.1]),
            np.zeros(1),
            images,
            np.zeros((8, 3)),
            (images[:1], np.zeros(1, int)),
            teacher=teacher,
            begin=begin,
        )
        losses[statistics] = float(trained.loss[0, 0])
    assert losses[True] == pytest.approx(0.0, abs=1e-6), "teacher and student are the same function"
    assert losses[False] > 1e-3


def test_the_command_prints_a_line_for_each_cell(krr_st, tmp_path, capsys):
    out = tmp_path / "pretraining.json"
    options = ["--data", "digits", "--seeds", "2", "--labelled", "100", "--starts", "distilled", "none", "--json"]
    assert cli.main(["pretraining", str(krr_st), *options, "--out", str(out)]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.split(" probe ")[1].split()[0] for line in lines] == ["distilled", "none"]
    expected = pretraining([krr_st], Pretraining(DIGITS, starts=("none",), seeds=2, labelled=100))
    assert json.loads(last)["cells"][1]["accuracies"] == pytest.approx(expected[0].accuracies)
    assert json.loads(out.read_text()) == json.loads(last)


def test_what_cannot_be_compared_is_refused(krr_st, capsys):
    with pytest.raises(ConfigError, match="sets"):
        pretraining([], Pretraining(DIGITS))
    with pytest.raises(ShapeError, match="second data set"):
        pretraining([krr_st], Pretraining(Data("digits", shrink=2)))
    assert cli.main(["pretraining", str(krr_st), "--data", "digits", "--teacher", "FC1 wide=8"]) == 2
    assert "wide" in capsys.readouterr().err


@pytest.mark.slow
def test_representations_are_drawn_in_the_plane(krr_st, tmp_path):
    groups = embedding.representations(load(krr_st), real=60)
    assert {name: part.shape for name, part in groups.items()} == {
        "real images": (60, 16),
        "learned images": (20, 16),
        "learned labels": (20, 16),
    }
    np.testing.assert_array_equal(groups["learned labels"], load(krr_st).labels)
    planes = embedding.embed(groups)
    assert {name: part.shape for name, part in planes.items()} == {
        name: (len(part), 2) for name, part in groups.items()
    }
    out = tmp_path / "plane.png"
    assert cli.main(["show", str(krr_st), "--representations", "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_groups_that_lie_apart_are_apart_in_the_plane(rng):
    near, far = rng.standard_normal((40, 5)), rng.standard_normal((40, 5)) + 50
    planes = embedding.embed({"real images": near, "learned images": far})
    centres = [planes[name].mean(axis=0) for name in planes]
    spread = max(planes[name].std() for name in planes)
    assert np.linalg.norm(centres[0] - centres[1]) > 2 * spread
