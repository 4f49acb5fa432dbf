"""Optimisers: each chain against optax's own, rates as arrays, schedules, and the new optimiser in the middle."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kip import rng as keys
from kip.errors import ConfigError
from kip.training.recipe import Optimizer, rate_fraction, with_rates

STEPS = 6


def l2(decay, rule):
    return optax.chain(optax.add_decayed_weights(decay), rule)


def halfway(rate):
    return lambda count: jnp.where(count < STEPS / 2, rate, 0.1 * rate)


PLAIN = {
    Optimizer("sgd", 0.1): optax.sgd(0.1),
    Optimizer("sgd", 0.1, momentum=0.9, weight_decay=0.02): l2(0.02, optax.sgd(0.1, momentum=0.9)),
    Optimizer("sgd", 0.1, momentum=0.9, schedule="halfway"): optax.sgd(halfway(0.1), momentum=0.9),
    Optimizer("adam", 0.1): optax.adam(0.1),
    Optimizer("adam", 0.1, weight_decay=0.02): l2(0.02, optax.adam(0.1)),
    Optimizer("adam", 0.1, schedule="linear"): optax.adam(optax.linear_schedule(0.1, 0.0, STEPS)),
    Optimizer("adamw", 0.1, weight_decay=0.02): optax.adamw(0.1, weight_decay=0.02),
    Optimizer("adamw", 0.1, weight_decay=0.02, schedule="cosine"): optax.adamw(
        optax.cosine_decay_schedule(0.1, STEPS), weight_decay=0.02
    ),
    Optimizer("lamb", 0.1, weight_decay=0.02): optax.lamb(0.1, weight_decay=0.02),
    Optimizer("adabelief", 0.1): optax.adabelief(0.1),
}


def start(rng):
    return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in (("w", (3, 2)), ("b", (2,)))}


def descend(chain, state, params, first=0, last=STEPS):
    for step in range(first, last):
        gradient = jax.tree.map(lambda w, step=step: jnp.sin(3 * w + step), params)
        updates, state = chain.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("optimizer", PLAIN, ids=str)
def test_a_chain_is_optaxs_own(optimizer, rng):
    params = start(rng)
    ours, plain = optimizer.chain(STEPS), PLAIN[optimizer]
    result, _ = descend(ours, ours.init(params), params)
    expected, _ = descend(plain, plain.init(params), params)
    for name, leaf in result.items():
        np.testing.assert_allclose(leaf, expected[name], rtol=1e-6, atol=1e-7)


def test_rates_in_the_state_are_vectorised_over(rng):
    params = start(rng)
    chain = Optimizer("adamw", 1.0, schedule="cosine").chain(STEPS)
    rates, decays = np.array([0.1, 0.01], np.float32), np.array([0.0, 0.3], np.float32)
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), params)
    state = with_rates(jax.vmap(chain.init)(many), rates, decays)
    for step in range(STEPS):
        gradient = jax.tree.map(lambda w, step=step: jnp.sin(3 * w + step), many)
        updates, state = jax.vmap(chain.update)(gradient, state, many)
        many = optax.apply_updates(many, updates)
    for r in range(2):
        own = Optimizer("adamw", float(rates[r]), weight_decay=float(decays[r]), schedule="cosine").chain(STEPS)
        alone, _ = descend(own, own.init(params), params)
        for name in params:
            np.testing.assert_allclose(many[name][r], alone[name], rtol=1e-6, atol=1e-7)


def test_a_new_optimiser_in_the_middle_forgets_its_momentum(rng):
    params = start(rng)
    chain = Optimizer("sgd", 0.1, momentum=0.9, weight_decay=0.02, schedule="halfway").chain(STEPS, restart_at=4)
    result, _ = descend(chain, chain.init(params), params)
    first, second = (l2(0.02, optax.sgd(rate, momentum=0.9)) for rate in (0.1, 0.01))
    half, _ = descend(first, first.init(params), params, 0, 4)
    expected, _ = descend(second, second.init(half), half, 4, STEPS)
    for name, leaf in result.items():
        np.testing.assert_allclose(leaf, expected[name], rtol=1e-6, atol=1e-7)


def test_schedules_start_at_one_and_end_where_they_say():
    last = [float(rate_fraction(name, 99, 100)) for name in ("constant", "cosine", "linear", "halfway")]
    np.testing.assert_allclose(last, [1.0, 0.00024672, 0.01, 0.1], rtol=1e-3)
    assert [float(rate_fraction(name, 0, 100)) for name in ("constant", "cosine", "linear", "halfway")] == [1, 1, 1, 1]
    assert [float(rate_fraction("halfway", step, 100)) for step in (49, 50)] == pytest.approx([1, 0.1])
    assert [float(rate_fraction("halfway", step, 100, 70)) for step in (69, 70)] == pytest.approx([1, 0.1])


def test_what_contradicts_itself_is_refused():
    with pytest.raises(ConfigError, match="momentum with adam"):
        Optimizer("adam", momentum=0.9)
    with pytest.raises(ConfigError, match="cosine"):
        Optimizer(schedule="cosine").chain()
    with pytest.raises(ConfigError, match="restart_at"):
        Optimizer(schedule="cosine").chain(10, restart_at=5)


def test_a_key_is_a_function_of_seed_purpose_and_counters():
    data = jax.random.key_data
    first = keys.key(0, "teacher", 1)
    assert np.array_equal(data(first), data(keys.key(0, "teacher", 1)))
    others = [keys.key(1, "teacher", 1), keys.key(0, "pool", 1), keys.key(0, "teacher", 2), keys.key(0, "teacher")]
    assert all(not np.array_equal(data(first), data(other)) for other in others)
    expected = jax.random.key(int(keys.generator(0, "teacher", 1).integers(2**31)))
    assert np.array_equal(data(first), data(expected))


def test_schedules_of_post_training_are_those_written_out():
    steps = 80
    half, warm = (
        [float(rate_fraction(name, step, steps)) for step in range(steps)] for name in ("half_cosine", "warm_cosine")
    )
    np.testing.assert_allclose(half, [0.5 * (1 + np.cos(np.pi * step / steps / 2)) for step in range(steps)], rtol=1e-6)
    np.testing.assert_allclose(warm[:3], [1 / 3, 2 / 3, 1], rtol=1e-6)  # a fortieth rises
    falling = [0.5 * (1 + np.cos(np.pi * (step - 2) / 78)) for step in range(2, steps)]
    np.testing.assert_allclose(warm[2:], falling, rtol=1e-5, atol=1e-6)


def test_the_schedule_of_rcigs_judge_is_that_of_two_joined_schedules_of_optax():
    rise = optax.linear_schedule(0.0, 1.0, 50)
    joined = optax.join_schedules([rise, optax.cosine_decay_schedule(1.0, 50, alpha=0.01)], [50])
    ours = [float(rate_fraction("rise_cosine", step, 100)) for step in range(100)]
    np.testing.assert_allclose(ours, [float(joined(step)) for step in range(100)], rtol=1e-5, atol=1e-7)
