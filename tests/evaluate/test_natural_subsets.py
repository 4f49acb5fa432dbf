"""Accuracy of natural subsets, against a plain evaluation of each."""

import json

import numpy as np
import pytest

from kip import cli, data, krr, preprocess
from kip.blocks import Blocks, KernelBlocks
from kip.errors import DataError
from kip.evaluate.natural_subsets import natural_subsets
from kip.judges.krr_accuracy import krr_accuracy
from kip.kernels import RBF


@pytest.fixture(scope="module")
def digits():
    dataset = data.load(data.Data())
    return dataset, preprocess.fit(preprocess.Preprocess(), dataset.train.images).apply


def measure(digits, **settings):
    dataset, transform = digits
    with KernelBlocks(Blocks()) as blocks:
        return natural_subsets(dataset, transform, blocks, RBF(), krr.Ridge(), **settings)


def test_accuracies_are_those_of_each_subset_by_itself(digits):
    dataset, apply = digits
    results = measure(digits, per_class=(1, 3), subsets=2, targets=None)
    assert [result.per_class for result in results] == [1, 3]
    for draw in range(2):
        chosen = data.class_balanced(
            dataset.train.labels, 30, num_classes=10, seed=0, purpose="natural baseline", step=draw
        )
        labels = dataset.train.labels[chosen]
        firsts = [np.flatnonzero(labels == label)[0] for label in range(10)]
        for result, kept in zip(results, (firsts, slice(None)), strict=True):
            with KernelBlocks(Blocks()) as blocks:
                expected = krr_accuracy(
                    blocks,
                    RBF(),
                    krr.Ridge(),
                    apply(dataset.train.images[chosen[kept]]),
                    data.centred_one_hot(labels[kept], 10),
                    apply(dataset.test.images),
                    dataset.test.labels,
                )
            assert result.accuracies[draw] == pytest.approx(expected, abs=1 / len(dataset.test.labels))


def test_the_deviation_is_that_of_a_single_subset(digits):
    (result,) = measure(digits, per_class=(2,), subsets=4, targets=50)
    assert result.std == pytest.approx(np.std(result.accuracies, ddof=1))
    (alone,) = measure(digits, per_class=(2,), subsets=1, targets=50)
    assert alone.accuracies == result.accuracies[:1]
    assert alone.std == 0


@pytest.mark.parametrize("targets", [0, 10**6])
def test_a_wrong_number_of_targets_is_refused(digits, targets):
    with pytest.raises(DataError, match="targets"):
        measure(digits, per_class=(1,), subsets=1, targets=targets)


def test_the_command_prints_a_line_for_each_size(capsys):
    assert cli.main(["natural", "digits", "--kernel", "FC1", "--per-class", "1", "4", "--subsets", "2", "--json"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert ["a class" in line for line in lines] == [True, True]
    one, four = json.loads(last)["subsets"]
    assert one["mean"] < four["mean"]
