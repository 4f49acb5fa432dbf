from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kip.data import ClassIndex, class_balanced
from kip.errors import DataError

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(5), [20, 30, 25, 20, 40]))


def draw(count=50, **changes: Any):
    options: dict[str, Any] = {"num_classes": 5, "seed": 1, "purpose": "target batch", **changes}
    return class_balanced(LABELS, count, **options)


@given(count=st.integers(0, 100), step=st.integers(0, 10**6))
def test_classes_differ_by_at_most_one_and_no_image_comes_twice(count, step):
    indices = draw(count, step=step)
    assert indices.dtype == np.int64
    assert indices.shape == (count,)
    assert len(np.unique(indices)) == count
    numbers = np.bincount(LABELS[indices], minlength=5)
    assert numbers.max() - numbers.min() <= 1


def test_images_are_grouped_by_class():
    assert (np.diff(LABELS[draw(52)]) >= 0).all()


def test_a_draw_is_a_function_of_seed_purpose_and_step():
    np.testing.assert_array_equal(draw(), draw())
    changes: tuple[dict[str, Any], ...] = ({"seed": 2}, {"purpose": "support"}, {"step": 1})
    assert not any(np.array_equal(draw(), draw(**change)) for change in changes)


def test_drawing_does_not_depend_on_the_global_random_state():
    np.random.seed(0)  # noqa: NPY002 -- the very state that must not matter
    first = draw()
    np.random.seed(1)  # noqa: NPY002 -- the very state that must not matter
    np.testing.assert_array_equal(first, draw())


def test_the_remainder_goes_to_different_classes_at_different_steps():
    longest = {np.bincount(LABELS[draw(51, step=step)], minlength=5).argmax() for step in range(60)}
    assert longest == set(range(5))


def test_every_image_of_a_class_is_drawn_about_equally_often():
    index = ClassIndex(LABELS, 5)
    draws = [index.sample(50, seed=0, purpose="t", step=step) for step in range(400)]
    counts = np.bincount(np.concatenate(draws), minlength=len(LABELS))
    # Class 0 gives 10 of 20 images: mean 200, standard deviation 10 of 400 draws.
    assert np.abs(counts[LABELS == 0] - 200).max() < 50


def test_asking_for_all_images_gives_all_though_the_classes_are_unequal():
    np.testing.assert_array_equal(np.sort(draw(len(LABELS))), np.arange(len(LABELS)))


def test_a_support_larger_than_a_class_is_refused_with_the_largest_that_fits():
    with pytest.raises(DataError, match=r"class 0 .* got 20 images; expected at least 21\. Draw at most 100"):
        draw(105)
    assert len(draw(100)) == 100
