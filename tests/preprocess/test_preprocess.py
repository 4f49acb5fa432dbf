import json
import os
from pathlib import Path

import numpy as np
import pytest

from helpers.kinds import untyped
from kip.config import from_json, to_dict
from kip.errors import ConfigError, DataError, ShapeError
from kip.preprocess import Preprocess, fit

KINDS = ["none", "standardize", "zca", "zca_notebook", "zca_frepo", "zca_kornia"]
ZCA_KINDS = KINDS[2:]


def natural_like(count=300, side=6, channels=3, seed=0):
    """Images whose pixels correlate with their neighbours', like photographs."""
    noise = np.random.default_rng(seed).normal(size=(count, side, side, channels))
    smooth = noise.cumsum(1).cumsum(2) + noise.mean(3, keepdims=True) * 3
    return np.clip(128 + 12 * smooth, 0, 255).astype(np.uint8)


TRAIN = natural_like()


@pytest.fixture
def fitted(tmp_path):
    return lambda kind, images=TRAIN, reg=0.1: fit(
        Preprocess(kind=kind, regularization=reg), images, cache_dir=tmp_path
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_comes_back_with_its_own_statistics(fitted, kind, channels):
    transform = fitted(kind, natural_like(channels=channels))
    held = natural_like(20, channels=channels, seed=1)
    whitened, statistics = transform.apply(held), transform.statistics(held)
    assert whitened.shape == held.shape
    assert whitened.dtype == np.float32
    assert statistics.shape == (20, 2)
    assert statistics.dtype == np.float64
    pixels = transform.invert(whitened, statistics)
    assert pixels.dtype == np.float32
    # float32 rounding of the whitened image, enlarged by at most the condition of W: its largest eigenvalue of C is at
    # most d times the mean, so sqrt((d + 0.1) / 0.1) = 33 for d = 108.
    np.testing.assert_allclose(pixels, held / 255.0, atol=33 * np.finfo(np.float32).eps)


@pytest.mark.parametrize("kind", KINDS)
def test_float_pixels_are_taken_on_the_scale_of_zero_to_one(fitted, kind):
    transform, held = fitted(kind), natural_like(5, seed=1)
    np.testing.assert_array_equal(transform.apply(held / 255.0), transform.apply(held))
    np.testing.assert_array_equal(transform.statistics(held / 255.0), transform.statistics(held))


@pytest.mark.parametrize("kind", ["none", "standardize", "zca_frepo", "zca_kornia"])
def test_kinds_without_layer_normalisation_have_neutral_statistics(fitted, kind):
    np.testing.assert_array_equal(fitted(kind).statistics(TRAIN[:3]), [[0, 1]] * 3)


@pytest.mark.parametrize("kind", ["zca", "zca_notebook"])
def test_layer_normalisation_makes_contrast_and_brightness_irrelevant(fitted, kind):
    transform, pixels = fitted(kind), TRAIN[:5] / 255.0
    brighter = 0.1 * TRAIN.reshape(-1, 3).std(0) / 255.0  # the same step in each standardised channel
    moved = pixels + brighter if kind == "zca_notebook" else 0.5 * pixels + 0.1
    np.testing.assert_allclose(transform.apply(moved), transform.apply(pixels), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_of_a_batch_is_preprocessed_like_the_whole(fitted, kind):
    # To rounding: BLAS may sum a smaller product in another order.
    transform = fitted(kind)
    np.testing.assert_allclose(transform.apply(TRAIN)[10:13], transform.apply(TRAIN[10:13]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_constant_images_and_features_give_finite_numbers_and_return(fitted, kind):
    train = TRAIN.copy()
    train[:, 0, 0] = 17  # a pixel that never varies
    train[5] = 90  # an image that never varies
    transform = fitted(kind, train)
    whitened = transform.apply(train)
    assert np.isfinite(whitened).all()
    np.testing.assert_allclose(
        transform.invert(whitened, transform.statistics(train))[[5, 9]], train[[5, 9]] / 255.0, atol=1e-5
    )
    if kind in ("zca", "zca_notebook"):
        grey = np.full((2, 6, 6, 3), 0.3)
        transform = fitted("zca")
        np.testing.assert_array_equal(transform.apply(grey), 0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_description_is_small_json_and_tells_transforms_apart(fitted, kind):
    text = json.dumps(fitted(kind).describe())
    assert len(text) < 500
    assert json.loads(text)["kind"] == kind
    if kind != "none":
        assert fitted(kind, natural_like(seed=3)).describe() != fitted(kind).describe()
    if kind in ZCA_KINDS:
        assert fitted(kind, reg=0.2).describe()["whitening_sha256"] != fitted(kind).describe()["whitening_sha256"]


def test_standardize_gives_channels_of_zero_mean_and_unit_deviation(fitted):
    transform = fitted("standardize")
    channels = transform.apply(TRAIN).reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(channels.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(channels.std(0), 1, rtol=1e-6)
    np.testing.assert_allclose(transform.describe()["mean"], TRAIN.reshape(-1, 3).mean(0) / 255, rtol=1e-12)
    np.testing.assert_allclose(transform.describe()["std"], TRAIN.reshape(-1, 3).std(0) / 255, rtol=1e-12)


def test_none_gives_pixels_between_zero_and_one(fitted):
    np.testing.assert_array_equal(fitted("none").apply(TRAIN), (TRAIN / 255.0).astype(np.float32))


def plain(kind, reg, train, images):
    """Each kind straight from its formula, without blocks, shortcuts or guards."""
    n, features = len(train), train[0].size
    x, new = (a.reshape(len(a), -1) / 255.0 for a in (train, images))
    if kind == "zca":
        z = (x - x.mean(0)) / x.std(0)
        new = (new - new.mean(1, keepdims=True)) / new.std(1, keepdims=True)
    else:
        mean, deviation = ((train / 255.0).mean((0, 1, 2)), (train / 255.0).std((0, 1, 2)))
        z, new = (((a / 255.0 - mean) / deviation).reshape(len(a), -1) for a in (train, images))
        if kind == "zca_notebook":
            z, new = (a - a.mean(1, keepdims=True) for a in (z, new))
            z, new = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (z, new))
        else:
            z, new = z - z.mean(0), new - z.mean(0)
    covariance = z.T @ z / n
    strength = reg * np.trace(covariance) / features
    if kind == "zca_kornia":  # centred pixels, kornia's n - 1, and an absolute strength
        new, covariance, strength = images.reshape(len(images), -1) / 255.0 - x.mean(0), np.cov(x.T), reg
    u, s, _ = np.linalg.svd(covariance + strength * np.eye(features))
    return (new @ (u * s**-0.5) @ u.T).reshape(images.shape)


@pytest.mark.parametrize("kind", ZCA_KINDS)
@pytest.mark.parametrize("reg", [1e-3, 0.1, 100.0])
def test_each_zca_is_its_formula(fitted, kind, reg):
    held = natural_like(20, seed=1)
    expected = plain(kind, reg, TRAIN, held)
    np.testing.assert_allclose(
        fitted(kind, reg=reg).apply(held), expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max()
    )


def test_the_blocks_of_the_covariance_add_up(fitted, monkeypatch):
    whole = fitted("zca").apply(TRAIN[:5])
    monkeypatch.setattr("kip.preprocess.zca.ROWS", 7)
    monkeypatch.setattr("kip.preprocess.cache.VERSION", -1)  # so that nothing is read back
    np.testing.assert_allclose(fitted("zca").apply(TRAIN[:5]), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ZCA_KINDS)
def test_a_singular_covariance_without_regularization_is_refused(fitted, kind):
    with pytest.raises(DataError, match="Set regularization above 0"):
        fitted(kind, TRAIN[:50], reg=0.0)  # 50 images of 108 features
    assert np.isfinite(fitted(kind, TRAIN[:50], reg=0.1).apply(TRAIN)).all()


@pytest.mark.parametrize("kind", ZCA_KINDS)
def test_images_that_are_all_the_same_are_named_whatever_the_regularization(fitted, kind):
    with pytest.raises(DataError, match=r"got 50 images that are all the same; .*another depth, or transparent"):
        fitted(kind, np.zeros_like(TRAIN[:50]), reg=0.1)


def test_wrong_images_are_refused(fitted):
    with pytest.raises(ShapeError, match="uint8"):
        fitted("standardize", TRAIN / 255.0)
    with pytest.raises(DataError, match="no train image"):
        fitted("zca", TRAIN[:0])
    for kind in KINDS:
        with pytest.raises(ShapeError, match=r"\(6, 6, 3\)"):
            fitted(kind).apply(natural_like(2, side=5))
    with pytest.raises(ShapeError, match=r"got \(2, 2\); expected \(3, 2\)"):
        fitted("zca").invert(TRAIN[:3] / 255.0, np.zeros((2, 2)))
    with pytest.raises(ConfigError, match="regularization"):
        Preprocess(regularization=-1.0)
    with pytest.raises(ConfigError, match="kind"):
        untyped(Preprocess)(kind="whiten")


def test_the_value_survives_json():
    config = Preprocess(kind="zca", regularization=100.0)
    assert from_json(Preprocess, json.dumps(to_dict(config)), source="test") == config


@pytest.mark.skipif("KIP_DATA_DIR" not in os.environ, reason="KIP_DATA_DIR (a folder with cifar10.npz) is not set")
@pytest.mark.parametrize("reg", [0.01, 0.1])
def test_frepo_whitening_of_cifar10_leaves_the_covariance_of_the_formula(fitted, reg):
    with np.load(Path(os.environ["KIP_DATA_DIR"]) / "cifar10.npz") as arrays:
        train = np.ascontiguousarray(arrays["x_train"][:1000, ::3, ::3])  # 363 features
    transform = fitted("zca_frepo", train, reg)
    whitened = transform.apply(train).reshape(len(train), -1).astype(np.float64)
    covariance = whitened.T @ whitened / len(train)
    # W C W = U S (S + r)^-1 U^T with r = reg tr(C)/d: eigenvalues S / (S + r), each below 1, in the basis of C.
    x = train.reshape(len(train), -1) / 255.0
    z = (x - x.mean(0)) / np.tile((train / 255.0).std((0, 1, 2)), 121)
    spectrum = np.linalg.eigvalsh(z.T @ z / len(train))
    expected = spectrum / (spectrum + reg * spectrum.mean())
    np.testing.assert_allclose(np.linalg.eigvalsh(covariance), np.sort(expected), atol=1e-5)


@pytest.mark.skipif("KIP_DATA_DIR" not in os.environ, reason="KIP_DATA_DIR (a folder with cifar10.npz) is not set")
def test_zca_of_cifar10_flattens_the_spectrum_and_keeps_the_picture(fitted):
    with np.load(Path(os.environ["KIP_DATA_DIR"]) / "cifar10.npz") as arrays:
        train = np.ascontiguousarray(arrays["x_train"][:1000, ::3, ::3])
    transform = fitted("zca", train)
    whitened = transform.apply(train).reshape(len(train), -1)
    flat = train.reshape(len(train), -1) / 255.0
    before, after = (np.linalg.eigvalsh(np.cov(features.T))[::-1] for features in (flat, whitened))
    assert before[0] / before[49] > 10 * after[0] / after[49]
    # Of all rotations of whitening, ZCA stays nearest to the image: each pixel correlates with itself most.
    correlation = np.corrcoef(flat[:, ::17].T, whitened[:, ::17].T)[:22, 22:]
    assert (correlation.argmax(1) == np.arange(22)).all()
