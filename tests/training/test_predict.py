"""What a network gives for many images: chunks are the whole, and float32's last digits are kept where they decide."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kip.evaluate.empirical_ntk import _products, _rows
from kip.networks import network
from kip.training import predict
from kip.training.devices import over_devices

MODEL = network("ConvVec1", 3, width=4)


@pytest.fixture(scope="module")
def variables():
    return MODEL.init(jax.random.key(0), (8, 8, 1))


def test_chunks_are_the_whole(rng, variables, monkeypatch):
    images = rng.normal(size=(11, 8, 8, 1)).astype(np.float32)
    outputs = MODEL.apply(variables, images)
    monkeypatch.setattr(predict, "CHUNK", 4)
    monkeypatch.setattr(predict, "ROWS", 4)
    np.testing.assert_allclose(predict.logits(MODEL, variables, images), outputs.logits, rtol=1e-5, atol=1e-6)
    features = predict.features(MODEL, variables, images)
    assert features.dtype == np.float64
    np.testing.assert_allclose(features, outputs.features, rtol=1e-5, atol=1e-6)
    classes = np.asarray(outputs.logits).argmax(1)
    classes[:2] = (classes[:2] + 1) % 3
    assert predict.accuracy(MODEL, variables, images, classes) == pytest.approx(9 / 11)
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf * jnp.nan]), variables)
    np.testing.assert_allclose(predict.accuracy(MODEL, both, images, classes, many=True), [9 / 11, 0])


def precisions(function, *arguments):
    """Return the precisions of all products and convolutions in a function."""
    text = str(jax.make_jaxpr(function)(*arguments))
    assert "conv_general_dilated" in text or "dot_general" in text
    return text.count("Precision.HIGHEST"), text.count("precision=None")


def test_features_and_the_empirical_ntk_ask_for_all_digits_of_float32(rng, variables):
    images = jnp.asarray(rng.normal(size=(2, 8, 8, 1)), jnp.float32)
    full = lambda v, x: predict.precise_features(MODEL, v, x)  # noqa: E731
    as_set = lambda v, x: MODEL.apply(v, x).features  # noqa: E731
    assert precisions(full, variables, images)[0] > 0
    assert precisions(full, variables, images)[1] == 0
    assert precisions(as_set, variables, images)[0] == 0
    with jax.default_matmul_precision("tensorfloat32"):
        assert precisions(lambda v, x: predict._features(v, x, model=MODEL), variables, images)[0]
        assert precisions(lambda v, x: _rows(MODEL, v, x), variables, images[:1])[0] > 0
        assert precisions(_products, jnp.ones((2, 3)), jnp.ones((2, 3)))[0] > 0


def test_tasks_are_dealt_to_all_devices_and_their_results_come_in_order():
    devices = jax.local_devices()
    tasks = [lambda i=i: (i, jnp.asarray(i).devices().pop()) for i in range(7)]
    results = list(over_devices(tasks))
    assert [index for index, _ in results] == list(range(7))
    assert [device for _, device in results] == [devices[i % len(devices)] for i in range(7)]
    inner = list(over_devices([lambda: list(over_devices(tasks)) for _ in range(2)]))
    assert {device for _, device in inner[1]} == {devices[1]}, "a task's own tasks stay on its device"


def test_a_task_that_fails_ends_the_others():
    begun = []

    def task(index):
        begun.append(index)
        if index == 0:
            raise ValueError("the first")

    with pytest.raises(ValueError, match="the first"):
        list(over_devices([lambda i=i: task(i) for i in range(60)]))
    assert len(begun) < 60
