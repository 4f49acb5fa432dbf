"""Mixup and CutMix: what an image, its labels and a training become."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kip.networks.model import Model, Network
from kip.training.mix import MIXUP, mix_images
from kip.training.supervised import Supervised
from kip.training.update import Batch

MODEL = Model(Network("FC1", width=8), 3)
MIXED = jax.jit(mix_images, static_argnums=0)


def images(count=6):
    """Images of one value each, so that a pixel says whose it is."""
    return jnp.broadcast_to(jnp.arange(count, dtype=jnp.float32)[:, None, None, None], (count, 8, 6, 1))


def test_mixup_is_the_mean_of_an_image_and_its_partner_by_one_share():
    shares = []
    for seed in range(200):
        view = MIXED("mixup", jax.random.key(seed), images())
        assert sorted(view.partners.tolist()) == list(range(6))
        expected = view.share * np.arange(6) + (1 - view.share) * np.asarray(view.partners)
        np.testing.assert_allclose(view.images[:, 3, 2, 0], expected, rtol=1e-5)
        shares.append(float(view.share))
    assert np.mean(shares) == pytest.approx(0.5, abs=0.06)
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * MIXUP + 1)), abs=0.02)  # of Beta(a, a)


def test_cutmix_pastes_a_rectangle_and_its_share_is_what_is_left():
    left = []
    for seed in range(200):
        view = MIXED("cutmix", jax.random.key(seed), images())
        pasted = np.asarray(view.images != images())
        other = np.asarray(view.partners) != np.arange(6)
        assert not pasted[~other].any()
        rows, columns = np.nonzero(pasted[other][0, :, :, 0]) if other.any() else ([], [])
        if len(rows):
            inside = pasted[other][0, min(rows) : max(rows) + 1, min(columns) : max(columns) + 1]
            assert inside.all()
            assert inside.size == len(rows)
            values = np.asarray(view.images[:, rows[0], columns[0], 0])
            np.testing.assert_array_equal(values, np.asarray(view.partners))
            assert float(view.share) == pytest.approx(1 - len(rows) / 48)
        left.append(float(view.share))
    assert min(left) < 0.6
    assert max(left) > 0.95


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_hard_labels_of_mixed_images_count_in_their_shares(kind):
    variables, labels = MODEL.init(jax.random.key(0), (8, 6, 1)), jnp.eye(3)[jnp.array([0, 1, 2, 0, 1, 2])]
    objective = Supervised(MODEL, "xent", mix=kind)
    key = jax.random.key(5)
    view = objective.view(key, images())
    logs = jax.nn.log_softmax(MODEL.apply(variables, view.images).logits)
    own, other = (-jnp.sum(logs * each, axis=1) for each in (labels, labels[view.partners]))
    result = objective(variables, Batch(images(), labels), key)
    np.testing.assert_allclose(result.losses, view.share * own + (1 - view.share) * other, rtol=1e-5)


def test_the_cross_entropy_at_the_classes_is_added_to_the_teachers_loss():
    variables, teacher = (MODEL.init(jax.random.key(seed), (8, 6, 1)) for seed in (0, 1))
    labels, key = jnp.eye(3)[jnp.array([0, 1, 2, 0, 1, 2])], jax.random.key(5)
    objective = Supervised(MODEL, "mean", labeller=MODEL, mix="cutmix", class_weight=0.15)
    view = objective.view(key, images())
    ours, theirs = (MODEL.apply(each, view.images).logits for each in (variables, teacher))
    entropy = -jnp.sum(jax.nn.log_softmax(ours) * view.labels(labels), axis=1)
    result = objective(variables, Batch(images(), labels, teacher), key)
    np.testing.assert_allclose(result.losses, jnp.mean((ours - theirs) ** 2, axis=1) + 0.15 * entropy, rtol=1e-5)
    stored = dataclasses.replace(objective, labeller=None, stored=True)
    again = stored(variables, Batch(images(), labels, theirs.astype(jnp.float16)), key)
    np.testing.assert_allclose(again.losses, result.losses, rtol=1e-2)
