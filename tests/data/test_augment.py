import numpy as np
import pytest

from kip.data import Augment, augment
from kip.data.policies import CIFAR, POLICIES, SVHN, operators
from kip.errors import ConfigError, DataError, ShapeError

NOISE = np.random.default_rng(0).integers(0, 256, (200, 16, 16, 3), dtype=np.uint8)
RAMP = np.broadcast_to(np.linspace(30, 220, 16).astype(np.uint8)[None, :, None], (16, 16, 3))
POLICY_NAMES = ["autoaugment_cifar", "autoaugment_svhn", "rotate_shift"]


def run(images, policy, *, fraction=1.0, seed=0, step=0, indices=None):
    indices = np.arange(len(images)) if indices is None else indices
    return augment(images, Augment(policy=policy, fraction=fraction), seed=seed, step=step, indices=indices)


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_an_image_depends_on_seed_step_and_its_own_index_only(policy):
    indices = np.arange(200) + 1000
    whole = run(NOISE, policy, fraction=0.5, step=7, indices=indices)
    part = np.array([150, 3, 77])
    np.testing.assert_array_equal(whole[part], run(NOISE[part], policy, fraction=0.5, step=7, indices=indices[part]))


@pytest.mark.parametrize("policy", POLICY_NAMES)
@pytest.mark.parametrize("change", [{"seed": 1}, {"step": 1}, {"indices": np.arange(200) + 1}])
def test_another_seed_step_or_index_gives_other_images(policy, change):
    assert not np.array_equal(run(NOISE, policy), run(NOISE, policy, **change))


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_the_batch_that_came_in_is_not_changed(policy):
    before = NOISE.copy()
    varied = run(NOISE, policy)
    np.testing.assert_array_equal(NOISE, before)
    assert varied.shape == NOISE.shape
    assert varied.dtype == np.uint8
    assert not np.array_equal(varied, before)


def test_the_fraction_is_the_chance_of_each_image():
    # Noise never survives a rotation and shift unchanged, so unchanged images are those left out.
    for fraction, low, high in ((0.0, 0, 0), (0.25, 30, 70), (0.5, 75, 125), (1.0, 200, 200)):
        changed = (run(NOISE, "rotate_shift", fraction=fraction) != NOISE).any((1, 2, 3)).sum()
        assert low <= changed <= high  # three standard deviations of 200 draws
    np.testing.assert_array_equal(run(NOISE, "none"), NOISE)


@pytest.mark.parametrize("policy", ["autoaugment_cifar", "autoaugment_svhn"])
def test_about_half_of_the_images_are_flipped(policy):
    # In one draw of about ten no operation takes place, and the image is the original or its mirror image.
    varied = run(np.stack([RAMP] * 1000), policy)
    same = (varied == RAMP).all((1, 2, 3)).sum()
    mirrored = (varied == RAMP[:, ::-1]).all((1, 2, 3)).sum()
    assert min(same, mirrored) > 20
    assert abs(same - mirrored) < 4 * np.sqrt(same + mirrored)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_is_25_pairs_within_the_ranges_of_the_paper(policy):
    known = operators((0, 0, 0))
    assert len(POLICIES[policy]) == 25
    for pair in POLICIES[policy]:
        assert len(pair) == 2
        for step in pair:
            assert step.operation in known
            assert 0 <= step.probability <= 1
            assert 0 <= step.magnitude <= 9


def test_the_tables_have_the_totals_they_had_when_compared_with_public_transcriptions():
    # A guard against later slips: totals of this table when it was compared, entry by entry, with public
    # transcriptions of Tables 7 and 8.
    def sums(table):
        steps = [step for pair in table for step in pair]
        names = [step.operation for step in steps]
        return round(sum(s.probability for s in steps), 1), sum(s.magnitude for s in steps), names

    probability, magnitude, names = sums(CIFAR)
    assert (probability, magnitude) == (26.5, 267)
    assert names.count("Equalize") == 9
    assert names.count("Posterize") == 1
    probability, magnitude, names = sums(SVHN)
    assert (probability, magnitude) == (32.9, 231)
    assert names.count("Invert") == 12
    assert names.count("ShearY") == 8


def pixels(name, magnitude, sign=1, image=RAMP, fill=(1, 2, 3)):
    from PIL import Image

    return np.asarray(operators(fill)[name](Image.fromarray(np.ascontiguousarray(image)), magnitude, sign))


def test_operators_do_what_their_names_say():
    np.testing.assert_array_equal(pixels("Invert", 0), 255 - RAMP)
    np.testing.assert_array_equal(pixels("Posterize", 7), RAMP & 0b11000000)
    np.testing.assert_array_equal(pixels("Solarize", 5), np.where(RAMP < 128, RAMP, 255 - RAMP))
    np.testing.assert_array_equal(pixels("Brightness", 5), RAMP)  # factor 0.1 + 1.8 / 2 = 1
    assert pixels("Brightness", 9).mean() > RAMP.mean() > pixels("Brightness", 1).mean()
    assert pixels("Contrast", 9).std() > RAMP.std() > pixels("Contrast", 1).std()
    stretched = pixels("AutoContrast", 0)
    assert stretched.min() == 0
    assert stretched.max() >= 254


def test_translation_moves_in_proportion_to_the_side_and_fills():
    moved = pixels("TranslateX", 8)  # 8 of 32 pixels: a quarter of 16
    np.testing.assert_array_equal(moved[:, :12], RAMP[:, 4:])
    assert (moved[:, 12:] == (1, 2, 3)).all()
    back = pixels("TranslateX", 8, sign=-1)
    np.testing.assert_array_equal(back[:, 4:], RAMP[:, :12])
    down = pixels("TranslateY", 8)
    np.testing.assert_array_equal(down[:12], RAMP[4:])
    assert (down[12:] == (1, 2, 3)).all()


def test_shear_and_rotation_change_sides_with_the_sign():
    for name in ("ShearX", "ShearY", "Rotate"):
        np.testing.assert_array_equal(pixels(name, 0), RAMP)
        assert not np.array_equal(pixels(name, 9, sign=1), pixels(name, 9, sign=-1))


def test_rotate_shift_moves_a_dot_by_at_most_a_tenth_of_the_side():
    dot = np.zeros((29, 29, 1), np.uint8)
    dot[12:17, 12:17] = 200
    varied = run(np.stack([dot] * 200), "rotate_shift").astype(float)[..., 0]
    weights = varied / varied.sum((1, 2), keepdims=True)
    rows, columns = np.mgrid[:29, :29] - 14
    centroids = np.stack([(weights * rows).sum((1, 2)), (weights * columns).sum((1, 2))], 1)
    # The dot lies at the centre of rotation; its displacement is the shift, turned by the angle.
    length = np.linalg.norm(centroids, axis=1)
    assert length.max() < 2.9 * np.sqrt(2) + 0.1
    for axis in (0, 1):
        assert centroids[:, axis].min() < -2
        assert centroids[:, axis].max() > 2
        assert abs(centroids[:, axis].mean()) < 4 * 2.9 / np.sqrt(3 * 200)


def test_rotate_shift_turns_a_bar_by_at_most_ten_degrees():
    bar = np.zeros((41, 41, 1), np.uint8)
    bar[19:22, 10:31] = 200
    varied = run(np.stack([bar] * 200), "rotate_shift").astype(float)[..., 0]
    rows, columns = np.mgrid[:41, :41]
    angles = []
    for image in varied:
        weights = image / image.sum()
        r, c = rows - (weights * rows).sum(), columns - (weights * columns).sum()
        angles.append(
            np.rad2deg(0.5 * np.arctan2(2 * (weights * r * c).sum(), (weights * c * c).sum() - (weights * r * r).sum()))
        )
    assert 8 < max(angles) < 10.3
    assert -10.3 < min(angles) < -8


def test_rotate_shift_continues_the_nearest_pixel():
    grey = np.full((20, 8, 8, 1), 90, np.uint8)
    np.testing.assert_array_equal(run(grey, "rotate_shift"), grey)


def test_autoaugment_refuses_grey_images_with_a_remedy():
    with pytest.raises(DataError, match=r"got 1 channel; .*rotate_shift"):
        run(NOISE[..., :1], "autoaugment_svhn")


def test_float_images_and_a_fraction_above_one_are_refused():
    with pytest.raises(ShapeError, match="uint8"):
        run(NOISE / 255.0, "rotate_shift")
    with pytest.raises(ConfigError, match="fraction"):
        Augment(fraction=1.5)
