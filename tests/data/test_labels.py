import numpy as np
import pytest

from kip.data import centred_one_hot
from kip.errors import DataError


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_rows_are_one_hot_less_the_share_of_a_class(classes):
    labels = np.arange(classes)[::-1]
    y = centred_one_hot(labels, classes)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y.argmax(1), labels)
    np.testing.assert_allclose(y.max(1), 1 - 1 / classes, rtol=1e-6)
    np.testing.assert_allclose(y.min(1), -1 / classes, rtol=1e-6)
    np.testing.assert_allclose(y.sum(1), 0, atol=classes * np.finfo(np.float32).eps)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_out_of_range_is_refused(label):
    with pytest.raises(DataError, match=r"expected 0\.\.2"):
        centred_one_hot(np.array([0, label]), 3)
