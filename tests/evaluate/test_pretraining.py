"""Pre-training on a set, random images or nothing, judged by probes on a second data set."""

import json

import numpy as np
import pytest

from kip import cli, train
from kip.data import Data
from kip.errors import ConfigError
from kip.evaluate import embedding, pretraining_accuracies
from kip.experiment import Experiment
from kip.export import load
from kip.finite.krr_st import KRRST
from kip.finite.ld import LD
from kip.finite.learner import Training
from kip.finite.networks import Network
from kip.finite.pool import Optimizer, Pool
from kip.finite.teacher import Teacher

SMALL = Network("FC1", width=16)


@pytest.fixture(scope="module")
def distilled_file(tmp_path_factory):
    method = KRRST(
        20, teacher=Teacher(SMALL, embedding=8, steps=20, batch=40, pad=1, flip=False), network=SMALL,
        pool=Pool(2, max_updates=2, optimizer=Optimizer("sgd", 0.01), loss="mean"), steps=2, target_batch=50,
        pretraining=Optimizer("sgd", 0.01), pretraining_steps=5, probe_images=50, test_networks=1,
    )  # fmt: skip
    out = tmp_path_factory.mktemp("run")
    train.run(Experiment(method, checkpoint_every=2), out, show_progress=False)
    return out / "distilled.npz"


@pytest.fixture(scope="module")
def distilled(distilled_file):
    return load(distilled_file)


def test_each_start_gives_its_own_networks(distilled):
    starts = ("distilled", "random", "none")
    found = [pretraining_accuracies(distilled, Data("digits"), start=start, seeds=2, labelled=100) for start in starts]
    for each in found:
        assert each.shape == (2,)
        assert (each > 0.3).all(), "features of digits, whatever the network, classify some"
    assert len({tuple(each) for each in found}) == 3
    again = pretraining_accuracies(distilled, Data("digits"), start="distilled", seeds=2, labelled=100)
    np.testing.assert_array_equal(again, found[0])


def test_fine_tuning_moves_the_whole_network_from_where_pretraining_left_it(distilled):
    settings = {"how": "fine-tune", "steps": 60, "seeds": 1, "labelled": 200}
    tuned = [
        pretraining_accuracies(distilled, Data("digits"), start=start, **settings) for start in ("distilled", "none")
    ]
    assert tuned[0] != tuned[1]
    assert min(tuned) > 0.5
    stopped = pretraining_accuracies(distilled, Data("digits"), start="distilled", **{**settings, "steps": 1})
    assert stopped < tuned[0]


def test_the_command_prints_a_line_for_each_start(distilled_file, capsys):
    arguments = ["--data", "digits", "--seeds", "2", "--labelled", "100", "--start", "distilled", "none", "--json"]
    assert cli.main(["pretraining", str(distilled_file), *arguments]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["distilled", "none"]
    expected = pretraining_accuracies(load(distilled_file), Data("digits"), start="none", seeds=2, labelled=100)
    assert json.loads(last)["accuracies"]["none"] == pytest.approx(expected)


def test_representations_are_drawn_in_the_plane(distilled_file, tmp_path):
    found = embedding.representations(load(distilled_file), real=60)
    assert {name: part.shape for name, part in found.items()} == {
        "real images": (60, 16), "learned images": (20, 16), "learned labels": (20, 16),
    }  # fmt: skip
    np.testing.assert_array_equal(found["learned labels"], load(distilled_file).labels)
    planes = embedding.embed(found)
    assert {name: part.shape for name, part in planes.items()} == {name: (len(part), 2) for name, part in found.items()}
    out = tmp_path / "plane.png"
    assert cli.main(["show", str(distilled_file), "--representations", "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")


def test_groups_that_lie_apart_are_apart_in_the_plane(rng):
    near, far = rng.standard_normal((40, 5)), rng.standard_normal((40, 5)) + 50
    planes = embedding.embed({"real images": near, "learned images": far})
    centres = [planes[name].mean(axis=0) for name in planes]
    spread = max(planes[name].std() for name in planes)
    assert np.linalg.norm(centres[0] - centres[1]) > 2 * spread


def test_a_set_of_another_method_is_refused(distilled):
    method = LD(1, training=Training(network=SMALL))
    metadata = {**distilled.metadata, "experiment": Experiment(method).to_dict()}
    with pytest.raises(ConfigError, match="got ld; expected krr_st"):
        pretraining_accuracies(distilled._replace(metadata=metadata), Data("digits"), start="none")
