"""The images of an update, spread over devices: the same numbers as on one of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kip.networks.model import Model, Network
from kip.rng import key
from kip.training.devices import free_devices, spread
from kip.training.recipe import Optimizer, Recipe
from kip.training.supervised import train

pytestmark = pytest.mark.skipif(jax.local_device_count() == 1, reason="tests have one device with this JAX")
RECIPE = Recipe(
    "xent",
    optimizer=Optimizer("sgd", 0.05, momentum=0.9),
    steps=4,
    batch=12,
    augment="shift",
    evaluations=1,
    keep="last",
    spread=True,
)
MODEL = Model(Network("FC1", width=4, norm="batch"), 3)


def trained(rng, recipe):
    images, labels = (
        rng.standard_normal((24, 8, 8, 1)).astype(np.float32),
        np.eye(3, dtype=np.float32)[np.arange(24) % 3],
    )
    result = train(MODEL, recipe, key(0, "spread", 0)[None], np.array([0.05]), np.array([0.0]), images, labels, None)
    return result.variables[0]


@pytest.mark.slow
def test_a_spread_training_gives_the_numbers_of_one_device_batch_statistics_included():
    many, one = (
        trained(np.random.default_rng(0), recipe) for recipe in (RECIPE, dataclasses.replace(RECIPE, spread=False))
    )
    assert all(len(leaf.sharding.device_set) == jax.local_device_count() for leaf in jax.tree.leaves(many))
    assert all(len(leaf.sharding.device_set) == 1 for leaf in jax.tree.leaves(one))
    assert "batch_stats" in many
    for a, b in zip(jax.tree.leaves(many), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=2e-4, atol=2e-5)


def test_rows_are_dealt_in_equal_shares_and_left_where_they_cannot_be():
    devices = jax.local_device_count()
    for rows, shares in ((4 * devices, devices), (4 * devices + 1, 1), (10, 2)):
        dealt = jax.jit(lambda x: spread((x, 2 * x), devices))(jnp.arange(rows))
        assert [len(part.sharding.device_set) for part in dealt] == [shares] * 2
        np.testing.assert_array_equal(dealt[1], 2 * np.arange(rows))


def test_a_task_on_a_device_of_its_own_takes_no_other():
    assert free_devices() == jax.local_device_count()
    with jax.default_device(jax.local_devices()[1]):
        assert free_devices() == 1
