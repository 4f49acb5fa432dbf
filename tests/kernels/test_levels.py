"""Which shifts a kernel needs, against following each position pair down from the readout."""

import numpy as np
import pytest

from kip.kernels import Architecture
from kip.kernels.levels import levels, variance_levels

A = Architecture
CASES = [
    (A("ConvVec", 3), (5, 7)),
    (A("ConvNet"), (32, 32)),
    (A("ConvNet"), (28, 28)),
    (A("ConvNet"), (17, 40)),
    (A("ConvNet", 1), (6, 5)),
    (A("ConvNet3"), (9, 8)),
    (A("Myrtle"), (12, 16)),
    (A("Myrtle", 10), (7, 9)),
]


def needed(sides, top):
    """The pairs (p, p') of one axis that each resolution needs, from those at the top, as boolean (side, side)."""
    pairs = [top]
    for side in reversed(sides[:-1]):
        below = np.zeros((side, side), bool)
        for p, q in zip(*np.nonzero(pairs[0])):
            below[2 * p : 2 * p + 2, 2 * q : 2 * q + 2] = True
        pairs.insert(0, below)
    return pairs


def radius(pairs):
    rows, columns = np.nonzero(pairs)
    return np.abs(rows - columns).max()


@pytest.mark.parametrize(("architecture", "size"), CASES)
def test_radii_are_those_of_the_pairs_that_the_readout_needs(architecture, size):
    made = levels(architecture, *size)
    assert [(level.height, level.width) for level in made] == [
        (size[0] >> i, size[1] >> i) for i in range(architecture.poolings + 1)
    ]
    for axis, name in ((0, "rows"), (1, "columns")):
        sides = [(level.height, level.width)[axis] for level in made]
        everything = made[-1].end == "mean"
        top = np.ones((sides[-1],) * 2, bool) if everything else np.eye(sides[-1], dtype=bool)
        for level, pairs in zip(made, needed(sides, top), strict=True):
            ours = getattr(level, name)
            if ours is None:  # all pairs: right whatever is needed, and cheaper than so wide a band
                assert 2 * radius(pairs) + 1 > level.width or made[0].columns is None
            else:
                assert ours == radius(pairs)


@pytest.mark.parametrize(("architecture", "size"), CASES)
def test_variances_need_shift_zero_at_the_last_relu(architecture, size):
    pair_levels = levels(architecture, *size)
    own = variance_levels(pair_levels)
    top = max(i for i, level in enumerate(pair_levels) if level.convs)
    assert len(own) == top
    for level, above in zip(own, [*own[1:], None]):
        assert level.rows == (2 * above.rows + 1 if above else 1)


def test_convolutions_are_the_architectures():
    def convolutions(architecture):
        return [level.convs for level in levels(architecture, 16, 16)]

    assert convolutions(A("ConvVec", 4)) == [4]
    assert convolutions(A("ConvNet")) == [2, 1, 1, 0]
    assert convolutions(A("ConvNet3")) == [1, 1, 1, 0]
    assert convolutions(A("Myrtle", 10)) == [3, 3, 3]
