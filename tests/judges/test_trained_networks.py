"""Networks that judge a set: which images they learn."""

import numpy as np
import pytest

from kip.judges import Question, Support, Tools, networks
from kip.judges.networks import TrainedNetworks
from kip.methods.features.rcig import RCIG
from kip.networks.model import Network

NETWORK = Network("FC1", width=4)


@pytest.mark.parametrize(
    ("mirror", "keeps_class", "channels", "learned"),
    [(True, True, 3, 8), (True, False, 3, 4), (True, True, 1, 4), (False, True, 3, 4)],
)
def test_networks_learn_mirror_images_beside_an_rgb_set_whose_mirror_images_keep_their_class(
    problem, rng, monkeypatch, mirror, keeps_class, channels, learned
):
    shape = (6, 6, channels)
    seen = []

    def train(model, optimizer, images, labels, *, keys, **options):
        seen.append((images, labels))
        return [model.init(key, shape) for key in keys]

    monkeypatch.setattr(networks, "train_on_set", train)
    support = Support(rng.standard_normal((4, *shape)).astype(np.float32), np.eye(4, dtype=np.float32))
    judge = TrainedNetworks(NETWORK, mirror=mirror, test_networks=1)
    tools = Tools(problem.blocks, (support.inputs, np.arange(4)), 0, keeps_class)
    judge.are_right(support, Question(support.inputs, np.arange(4), "test"), tools)
    ((images, labels),) = seen
    assert len(images) == len(labels) == learned
    np.testing.assert_array_equal(images[:4], support.inputs)
    if learned == 8:
        np.testing.assert_array_equal(images[4:], support.inputs[:, :, ::-1])
        np.testing.assert_array_equal(labels[4:], support.labels)


def test_mirror_images_count_in_the_cost_of_a_judge():
    costs = [TrainedNetworks(NETWORK, steps=10, mirror=mirror).trained_images("test", 20) for mirror in (False, True)]
    assert costs == [5 * 10 * 20, 5 * 10 * 40]
    assert TrainedNetworks(NETWORK, steps=10, mirror=True).trained_images("test", 400) == 5 * 10 * 500


@pytest.mark.parametrize("mirror", [True, False])
def test_a_set_of_rcig_is_judged_by_networks_that_learn_what_its_student_learns(mirror):
    assert RCIG(mirror=mirror).judge.mirror == mirror
