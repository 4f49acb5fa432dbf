"""Folders of published sets are matched to a data set's classes by names, numbers and WordNet ids."""

import numpy as np
import pytest

from kip.data import class_order
from kip.data.class_order import numbers
from kip.errors import DataError


def test_the_map_has_the_thousand_ids_in_their_order():
    known = class_order._wordnet()
    assert len(known) == 1000
    assert list(known) == sorted(known)
    assert known["n01440764"] == ("tench", "Tinca tinca")
    assert all(names and all(names) for names in known.values())


def test_ids_match_the_first_names_even_where_two_share_one():
    ids = sorted(class_order._wordnet())
    names = [class_order._wordnet()[name][0].replace(" ", "_") for name in ids]
    assert names.count("crane") == names.count("maillot") == 2
    np.testing.assert_array_equal(numbers(ids, names, 1000), np.arange(1000))
    some = [134, 517, 3]  # both cranes, and no order of ids that tells them apart
    with pytest.raises(DataError, match="n02012849, n03126707, n01491361"):
        numbers([ids[place] for place in some], ["crane", "crane", "tiger shark"], 3)


def test_ids_find_names_in_any_order():
    names = ["zebra", "tiger shark", "tench, Tinca tinca", "Great White Shark"]
    ids = ["n01440764", "n01484850", "n01491361", "n02391049"]
    assert numbers(ids, names, 4).tolist() == [2, 3, 1, 0]
    assert numbers(names, ids, 4).tolist() == [3, 2, 0, 1]


def test_names_as_they_are_come_before_numbers_and_cases():
    assert numbers(["class0", "class1"], ["class1", "class0"], 2).tolist() == [1, 0]
    assert numbers(["A", "a"], ["a", "A"], 2).tolist() == [1, 0]
    assert numbers(["1", "2", "0"], ["0", "1", "2"], 3).tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["class1", "class2"], ["a", "b"]),  # from 1: which is which is a guess
        (["0", "x1"], ["a", "b"]),
        (["0_b", "1_a"], ["a", "b"]),  # numbers and names that contradict each other
        (["a", "c"], ["a", "b"]),
        (["a", "b"], []),
        (["a b", "a-b"], ["a_b", "A B"]),
    ],
)
def test_what_is_not_one_to_one_is_refused(folders, names):
    with pytest.raises(DataError, match="--class-order sorted"):
        numbers(folders, names, 2)
