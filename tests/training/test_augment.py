"""Augmentation of training batches: each operation against direct NumPy loops, and the siamese mode."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from kip.data.mirror import mirror_keeps_class
from kip.training import augment
from kip.training.augment import augment_alike, augment_images
from kip.training.warp import bilinear


def batch(rng, side, count=6, channels=3):
    return rng.normal(size=(count, side, side, channels)).astype(np.float32)


def applied(operation, seed, images):
    """Apply an operation that draws for each image, as one program."""
    return np.asarray(jax.jit(operation, static_argnums=2)(jax.random.key(seed), images, len(images)))


def uniform(seed, shape, low=0.0, high=1.0):
    """Return the numbers that an operation with this key draws."""
    return np.asarray(jax.random.uniform(jax.random.key(seed), shape, jnp.float32, low, high), np.float64)


def grid_sample(image, theta):
    """PyTorch's affine_grid and grid_sample (bilinear, zeros, align_corners=False) of one image, pixel by pixel.

    theta (2, 2) maps output (x, y) to input (x, y), coordinates in -1..1.
    """
    height, width, _ = image.shape
    result = np.zeros(image.shape)
    for i, j in np.ndindex(height, width):
        x, y = theta @ [(2 * j + 1) / width - 1, (2 * i + 1) / height - 1]
        column, row = ((x + 1) * width - 1) / 2, ((y + 1) * height - 1) / 2
        for r in (int(np.floor(row)), int(np.floor(row)) + 1):
            for c in (int(np.floor(column)), int(np.floor(column)) + 1):
                if 0 <= r < height and 0 <= c < width:
                    result[i, j] += (1 - abs(row - r)) * (1 - abs(column - c)) * image[r, c]
    return result


@pytest.mark.parametrize("side", [8, 28])
def test_a_crop_is_a_shift_of_whole_pixels_in_zeros(rng, side):
    reach = int(0.125 * side + 0.5)
    images = batch(rng, side, 60, 1)
    shifts = set()
    for image, moved in zip(images, applied(augment.crop, 0, images)):
        padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)))
        matches = [
            (r - reach, c - reach)
            for r in range(2 * reach + 1)
            for c in range(2 * reach + 1)
            if np.array_equal(padded[r : r + side, c : c + side], moved)
        ]
        assert len(matches) == 1
        shifts.add(matches[0])
    rows, columns = zip(*shifts)
    assert (min(rows), max(rows)) == (min(columns), max(columns)) == (-reach, reach)
    assert any(row != column for row, column in shifts)


@pytest.mark.parametrize("side", [7, 14, 32])
def test_a_cutout_is_a_square_of_half_the_side_whose_centre_may_lie_on_the_border(side):
    cut = applied(augment.cutout, 1, np.ones((400, side, side, 2), np.float32))
    length = int(0.5 * side + 0.5)
    centres = range(side + (1 - length % 2))
    spans = {frozenset(i for i in range(c - length // 2, c - length // 2 + length) if 0 <= i < side) for c in centres}
    seen = set()
    for image in cut:
        rows, columns = np.flatnonzero((image == 0).any((1, 2))), np.flatnonzero((image == 0).any((0, 2)))
        assert (image[np.ix_(rows, columns)] == 0).all()
        assert (image == 0).sum() == 2 * len(rows) * len(columns)
        seen |= {frozenset(rows.tolist()), frozenset(columns.tolist())}
    assert seen == spans


def test_colour_is_brightness_then_saturation_then_contrast(rng):
    images = batch(rng, 8)
    u = uniform(2, (3, 6, 1, 1, 1))
    for n, changed in enumerate(applied(augment.colour, 2, images)):
        image = np.asarray(images[n], np.float64) + (u[0, n] - 0.5)
        grey = image.mean(2, keepdims=True)
        image = (image - grey) * (u[1, n] * 2.0) + grey
        image = (image - image.mean()) * (u[2, n] + 0.5) + image.mean()
        np.testing.assert_allclose(changed, image, rtol=1e-4, atol=1e-5)


def test_a_flip_mirrors_left_and_right_half_of_the_time(rng):
    images = batch(rng, 8, 200)
    flipped = applied(augment.flip, 3, images)
    same = [np.array_equal(a, b) for a, b in zip(images, flipped)]
    assert 70 < sum(same) < 130
    assert all(np.array_equal(a, b[:, ::-1]) for a, b, kept in zip(images, flipped, same) if not kept)


@pytest.mark.parametrize("side", [8, 9])
def test_scale_is_pytorchs_grid_with_factors_uniform_in_their_range(rng, side):
    images = batch(rng, side)
    factors = uniform(4, (6, 2), 1 / 1.2, 1.2)
    for image, ours, (sy, sx) in zip(images.astype(np.float64), applied(augment.scale, 4, images), factors):
        np.testing.assert_allclose(ours, grid_sample(image, np.diag([sx, sy])), atol=2e-5)
    assert uniform(4, (20000,), 1 / 1.2, 1.2).mean() == pytest.approx((1.2 + 1 / 1.2) / 2, abs=0.003), (
        "linear, not of the logarithm"
    )


def test_rotate_is_pytorchs_grid_with_angles_up_to_fifteen_degrees(rng):
    images = batch(rng, 8)
    angles = np.deg2rad(uniform(5, (6,), -15, 15))
    for image, ours, a in zip(images.astype(np.float64), applied(augment.rotate, 5, images), angles):
        theta = np.array([[np.cos(a), np.sin(-a)], [np.sin(a), np.cos(a)]])
        np.testing.assert_allclose(ours, grid_sample(image, theta), atol=2e-5)


def test_a_quarter_turn_and_the_identity_are_exact(rng):
    images, turned = batch(rng, 8, 2), jax.jit(bilinear)
    np.testing.assert_allclose(turned(images, np.eye(2, dtype=np.float32)[None]), images, atol=1e-6)
    quarter = turned(images, np.array([[[0, 1], [-1, 0]]], np.float32))
    np.testing.assert_allclose(quarter, np.rot90(images, 1, axes=(1, 2)), atol=1e-5)


def sampled(image, matrix, shift):
    """Return an image at the pixels M p + t, counted from the middle, its edges outside; by SciPy, pixel units."""
    height, width, _ = image.shape
    middle = (np.array([height, width]) - 1) / 2
    points = np.stack([*np.mgrid[:height, :width]], -1) - middle
    rows, columns = np.moveaxis(points @ np.asarray(matrix).T + shift + middle, -1, 0)
    channels = [map_coordinates(image[..., c], [rows, columns], order=1, mode="nearest") for c in range(image.shape[2])]
    return np.stack(channels, -1)


def test_frepo_jitters_brightness_then_contrast_then_saturation(rng):
    images = batch(rng, 8)
    u = uniform(2, (3, 6), -1.0, 1.0) / 4
    for n, changed in enumerate(applied(augment.jitter, 2, images)):
        image = np.asarray(images[n], np.float64) + u[0, n]
        image = (image - image.mean()) * np.exp(u[1, n]) + image.mean()
        grey = image.mean(2, keepdims=True)
        image = (image - grey) * np.exp(u[2, n]) + grey
        np.testing.assert_allclose(changed, image, rtol=1e-4, atol=1e-5)
    grey = batch(rng, 8, channels=1)
    assert not np.allclose(applied(augment.jitter, 2, grey), grey)


def test_frepo_zooms_about_a_part_of_the_image_and_repeats_its_edges(rng):
    images = batch(rng, 8)
    keys = jax.random.split(jax.random.key(4))
    factors = 1.25 ** np.asarray(jax.random.uniform(keys[0], (6, 1), jnp.float32, -1.0, 1.0), np.float64)
    u = np.asarray(jax.random.uniform(keys[1], (6, 2), jnp.float32, -1.0, 1.0), np.float64)
    for n, changed in enumerate(applied(augment.zoom, 4, images)):
        (z,) = factors[n]
        centre = abs(8 * z - 8) / 2 * u[n]
        wanted = sampled(np.asarray(images[n], np.float64), np.eye(2) / z, centre / z)
        np.testing.assert_allclose(changed, wanted, atol=2e-5)
    assert factors.min() < 1 < factors.max()


def test_frepo_turns_and_translates_with_edges_outside(rng):
    images = batch(rng, 8)
    angles = np.deg2rad(uniform(5, (6,), -15, 15))
    for image, ours, a in zip(images.astype(np.float64), applied(augment.turn, 5, images), angles):
        matrix = [[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]
        np.testing.assert_allclose(ours, sampled(image, matrix, 0), atol=2e-5)
    shifts = uniform(5, (6, 2), -1.0, 1.0)
    for image, ours, u in zip(images.astype(np.float64), applied(augment.translate, 5, images), shifts):
        np.testing.assert_allclose(ours, sampled(image, np.eye(2), u), atol=2e-5)  # an eighth of 8 pixels


@pytest.mark.parametrize("side", [8, 28, 30])
def test_frepo_cuts_a_square_of_a_quarter_of_the_side_inside_the_image(side):
    cut = applied(augment.small_cutout, 1, np.ones((300, side, side, 2), np.float32))
    length, firsts = side // 4, set()
    for image in cut:
        rows, columns = np.flatnonzero((image == 0).any((1, 2))), np.flatnonzero((image == 0).any((0, 2)))
        assert len(rows) == len(columns) == length
        assert (image[np.ix_(rows, columns)] == 0).all()
        assert (image == 0).sum() == 2 * length**2
        firsts |= {int(rows[0]), int(columns[0])}
    assert (min(firsts), max(firsts)) == (0, side - length)


@pytest.mark.parametrize(
    "kind",
    [
        "flip_shift",
        "dsa",
        "dc",
        "noise",
        "frepo",
        *(pytest.param(k, marks=pytest.mark.slow) for k in ("shift", "dsa_no_flip", "frepo_no_flip")),
    ],
)
def test_an_augmentation_changes_images_by_its_key_alone(rng, kind):
    images = batch(rng, 8)
    apply = jax.jit(augment_images, static_argnums=0)
    draws = [apply(kind, jax.random.key(seed), images) for seed in range(8)]
    again = apply(kind, jax.random.key(0), images)
    np.testing.assert_array_equal(draws[0], again)
    assert all(draw.shape == images.shape and np.isfinite(draw).all() for draw in draws)
    assert not any(np.array_equal(a, b) for a, b in itertools.pairwise(draws))


def is_mirrored(images, changed):
    return any(np.array_equal(b, a[:, ::-1]) for a, b in zip(images, changed))


def test_one_operation_serves_a_batch_and_the_flip_is_left_out_where_it_must_be(rng):
    images = batch(rng, 8)
    apply = jax.jit(augment_images, static_argnums=0)
    for kind, flips in (("dsa", True), ("dsa_no_flip", False), ("frepo", True), ("frepo_no_flip", False)):
        mirrored = [is_mirrored(images, apply(kind, jax.random.key(seed), images)) for seed in range(60)]
        assert any(mirrored) == flips


def test_siamese_batches_are_the_same_view_of_their_images(rng):
    real = batch(rng, 8, 7)
    synthetic = real[[4, 2]]
    apply = jax.jit(augment_alike, static_argnums=0)
    changed, kinds = 0, set()
    for seed in range(40):
        ours, theirs = (np.asarray(apply("dsa", jax.random.key(seed), images)) for images in (real, synthetic))
        np.testing.assert_allclose(ours[[4, 2]], theirs, atol=1e-6)
        changed += not np.array_equal(ours, real)
        repeated = apply("dsa", jax.random.key(seed), np.tile(real[:1], (7, 1, 1, 1)))
        np.testing.assert_allclose(repeated, np.tile(repeated[:1], (7, 1, 1, 1)), atol=1e-6)
        kinds.add(str(ours.round(3).tobytes()))
    assert changed > 30, "all but some of the flips"
    assert len(kinds) > 25


@pytest.mark.slow
def test_a_siamese_view_lets_the_gradient_through(rng):
    real, synthetic = batch(rng, 8, 3), batch(rng, 8, 2)

    def loss(synthetic, key):
        ours, theirs = (augment_alike("dsa", key, images) for images in (real, synthetic))
        return jnp.sum(jnp.sin(theirs)) + jnp.sum(ours)

    value_and_gradient = jax.jit(jax.value_and_grad(loss))
    direction = rng.normal(size=synthetic.shape).astype(np.float32)
    for seed in range(8):
        key = jax.random.key(seed)
        slope = np.vdot(value_and_gradient(synthetic, key)[1], direction)
        ahead, behind = (value_and_gradient(synthetic + step * direction, key)[0] for step in (1e-2, -1e-2))
        assert slope == pytest.approx((float(ahead) - float(behind)) / 2e-2, rel=0.02, abs=0.05)


def test_dcs_own_augmentation_takes_one_operation_an_image(rng):
    images = batch(rng, 28, 300, 1)
    changed = np.asarray(jax.jit(augment.dc)(jax.random.key(0), images))
    mean = images.mean()
    cropped = 0
    for image, ours in zip(images, changed):
        padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), constant_values=mean)
        windows = (padded[r : r + 28, c : c + 28] for r in range(8) for c in range(8))
        cropped += any(np.allclose(window, ours, atol=1e-5) for window in windows)
    assert 70 < cropped < 130


def test_dcs_scale_is_nearest_neighbours_in_the_middle():
    resized = jax.jit(augment._source_pixels, static_argnums=1)
    for side, length in ((28, 23), (28, 28), (28, 33), (8, 7)):
        canvas = max(side, length)
        nearest = [int(np.floor(i * side / length)) for i in range(length)]
        whole = [-1] * canvas
        whole[(canvas - length) // 2 : (canvas - length) // 2 + length] = nearest
        expected = whole[(canvas - side) // 2 : (canvas - side) // 2 + side]
        ours = resized(np.arange(side), side, np.array([[length]]), np.array([[canvas]]))
        assert ours[0].tolist() == expected


def test_flips_are_left_out_where_a_mirror_image_has_another_class():
    pairs: list[tuple[augment.Augmentation, str]] = [("dsa", "dsa_no_flip"), ("frepo", "frepo_no_flip"), ("dc", "dc")]
    for kind, unflipped in pairs:
        assert augment.for_classes(kind, True) == kind
        assert augment.for_classes(kind, False) == unflipped


def test_a_data_set_and_not_its_colours_says_whether_a_mirror_image_keeps_its_class():
    grey = {"digits": False, "mnist": False, "emnist_letters": False, "emnist/balanced": False, "fashion_mnist": True}
    assert {name: mirror_keeps_class(name, channels=1) for name in grey} == grey
    rgb = {"svhn_cropped": False, "cifar10": True, "cifar100": True, "my_photographs": True}
    assert {name: mirror_keeps_class(name, channels=3) for name in rgb} == rgb
    assert not mirror_keeps_class("my_scans", channels=1)
