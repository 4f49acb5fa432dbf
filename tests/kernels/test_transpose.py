"""Layouts by compiled code: the same as NumPy's, to the last bit."""

import numpy as np
import pytest

from kip.kernels.fused import transpose
from kip.kernels.fused.layout import LANES, Buffer, by_image, in_lanes


def in_vectors(images):
    vectors = Buffer((-(-len(images) // LANES) * images[0].size, LANES), images.dtype)
    transpose.in_vectors(images, vectors)
    return vectors


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 3, 5, 1), (16, 4, 4, 3), (21, 7, 6, 2), (40, 8, 9, 3)], ids=str)
def test_layouts_are_numpys(rng, shape, dtype):
    images = rng.standard_normal(shape).astype(dtype)
    rows = np.moveaxis(images, 3, 1).reshape(len(images), -1)
    vectors = in_vectors(images)
    np.testing.assert_array_equal(vectors.array, in_lanes(rows).array)
    np.testing.assert_array_equal(by_image(vectors, len(images)), rows)
    channels, values = (Buffer((images.size,), images.dtype) for _ in range(2))
    transpose.by_channel(images, channels)
    transpose.flat_by_image(vectors, len(images), values)
    for numbers in (channels, values):
        np.testing.assert_array_equal(numbers.array, rows.reshape(-1))


def test_images_that_are_a_view_are_laid_out_as_they_look(rng):
    images = rng.standard_normal((3, 4, 6, 8)).astype(np.float32).swapaxes(1, 3)[:, ::2]
    np.testing.assert_array_equal(in_vectors(images).array, in_vectors(np.ascontiguousarray(images)).array)
