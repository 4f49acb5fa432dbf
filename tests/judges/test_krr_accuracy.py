"""KRR accuracy: against plain NumPy, in bounded memory, and of a run's own set."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from helpers.kinds import of_kind
from kip import data, krr, preprocess, sets
from kip.blocks import Blocks, KernelBlocks
from kip.data import centred_one_hot
from kip.errors import DataError, NotPositiveDefiniteError, ShapeError
from kip.evaluate import evaluate_set
from kip.experiment import Experiment
from kip.judges import Question, RandomFeatures, Tools
from kip.judges.krr_accuracy import krr_accuracy
from kip.kernels import kernel_function
from kip.kernels.architecture import RBF, Architecture, Laplace, Stax, kernel_named
from kip.methods.kernel.kip import KIP
from kip.networks import Network
from kip.runs import loop as train

FC1 = Architecture("FC", 1)
NETWORK = Network("ConvNet-D3", width=4, norm="none")
TINY = Experiment(method=KIP(images_per_class=2, target_batch=50, steps=2, kernels=(FC1,)), checkpoint_every=2)


@pytest.fixture(scope="module")
def digits():
    """Standardised digits: 30 support images with labels, and the test images with their classes."""
    dataset = data.load(data.Data("digits"))
    transform = preprocess.fit(TINY.preprocess, dataset.train.images)
    chosen = np.concatenate([np.flatnonzero(dataset.train.labels == label)[:3] for label in range(10)])
    labels = centred_one_hot(dataset.train.labels[chosen], 10)
    support, inputs = (transform.apply(images) for images in (dataset.train.images[chosen], dataset.test.images))
    return support, labels, inputs, dataset.test.labels


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny run: its result and its set."""
    folder = tmp_path_factory.mktemp("tiny") / "run"
    return train.run(TINY, folder, show_progress=False), sets.load(folder / "distilled.npz")


def plain_accuracy(kernel, ridge, support, labels, inputs, classes):
    """KRR in five lines of NumPy, float64; `kernel` is a function of two image batches."""
    k_ss, k_ts = (np.asarray(kernel(x, support), np.float64) for x in (support, inputs))
    lam = ridge.strength * (np.trace(k_ss) / len(k_ss) if ridge.scale == "trace" else 1)
    predictions = k_ts @ np.linalg.inv(k_ss + lam * np.eye(len(k_ss))) @ labels
    return float(np.mean(predictions.argmax(1) == classes))


def plain_rbf(x, z):
    x, z = (np.asarray(images, np.float64).reshape(len(images), -1) for images in (x, z))
    return np.exp(-((x[:, None] - z[None]) ** 2).sum(-1) / (2 * x.shape[1]))


@pytest.mark.parametrize("ridge", [krr.Ridge(), krr.Ridge(0.3), krr.Ridge(1.0, "absolute")])
def test_accuracy_is_that_of_plain_numpy_under_rbf(digits, ridge):
    with KernelBlocks(Blocks(dtype="float64")) as blocks:
        ours = krr_accuracy(blocks, RBF(), ridge, *digits)
    assert ours == plain_accuracy(plain_rbf, ridge, *digits)
    assert 0.7 < ours < 1


def test_accuracy_is_that_of_plain_numpy_under_a_network(digits):
    with KernelBlocks() as blocks:
        ours = krr_accuracy(blocks, FC1, krr.Ridge(), *digits)
    # float32 kernels may differ in the last digits, which can move an image on the border of two classes.
    assert ours == pytest.approx(plain_accuracy(kernel_function(FC1), krr.Ridge(), *digits), abs=1 / len(digits[3]))
    assert 0.7 < ours < 1


def test_accuracy_counts_each_image_once(digits):
    support, labels, inputs, classes = digits
    with KernelBlocks() as blocks:
        one_by_one = [
            krr_accuracy(blocks, RBF(), krr.Ridge(), support, labels, inputs[i : i + 1], classes[i : i + 1])
            for i in range(40)
        ]
        whole = krr_accuracy(blocks, RBF(), krr.Ridge(), support, labels, inputs[:40], classes[:40])
    assert set(one_by_one) == {0.0, 1.0}
    assert whole == pytest.approx(np.mean(one_by_one))


def test_learned_labels_and_not_classes_make_the_prediction(digits):
    support, labels, inputs, classes = digits
    with KernelBlocks() as blocks:
        right = krr_accuracy(blocks, RBF(), krr.Ridge(), support, labels, inputs, classes)
        labels = np.roll(labels, 1, axis=1)
        turned = krr_accuracy(blocks, RBF(), krr.Ridge(), support, labels, inputs, (classes + 1) % 10)
        wrong = krr_accuracy(blocks, RBF(), krr.Ridge(), support, labels, inputs, classes)
    assert turned == right
    assert wrong < 0.3


def test_rows_in_bounded_memory_give_the_same_as_the_whole(digits, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import jax.numpy as jnp\n"
        "def kernel(x, z, get):\n"
        "    return jnp.exp(-((x[:, None] - z[None]) ** 2).mean((2, 3, 4)) / 2)\n"
    )
    runs, accuracy = {}, {}
    for entry_bytes, rows in ((1, 4096), (1 << 14, 60)):  # of one MiB: everything in one tile, or 64 entries a tile
        monkeypatch.setattr("kip.blocks.assemble.ROWS_AT_A_TIME", rows)
        kernel = Stax(f"{tmp_path / 'mine.py'}:kernel", entry_bytes=entry_bytes)
        with KernelBlocks(Blocks(memory_mib=1, dtype="float64")) as blocks:
            runs[entry_bytes] = [len(block) for _, block in blocks.rows(kernel, digits[0], digits[2])]
            accuracy[entry_bytes] = krr_accuracy(blocks, kernel, krr.Ridge(), *digits)
    assert runs[1] == [len(digits[2])]
    assert len(runs[1 << 14]) > 4
    assert sum(runs[1 << 14]) == len(digits[2])
    assert accuracy[1] == accuracy[1 << 14] == plain_accuracy(plain_rbf, krr.Ridge(), *digits)


def test_no_image_to_classify_is_refused(digits):
    support, labels, inputs, classes = digits
    with KernelBlocks() as blocks, pytest.raises(DataError, match=r"data\.validation"):
        krr_accuracy(blocks, RBF(), krr.Ridge(), support, labels, inputs[:0], classes[:0])


def test_equal_support_images_without_a_ridge_are_refused(digits):
    support, labels, inputs, classes = digits
    twice = np.concatenate([support[:1], support[:1]])
    with KernelBlocks() as blocks, pytest.raises(NotPositiveDefiniteError, match="Raise the ridge"):
        krr_accuracy(blocks, RBF(), krr.Ridge(0.0), twice, labels[:2], inputs, classes)


def test_images_of_another_size_are_refused(digits):
    support, labels, inputs, classes = digits
    with KernelBlocks() as blocks, pytest.raises(ShapeError):
        krr_accuracy(blocks, RBF(), krr.Ridge(), support, labels, inputs[:, :4], classes)


def test_evaluating_a_set_reproduces_the_accuracy_that_its_run_reported(run):
    result, distilled = run
    with KernelBlocks(distilled.experiment.blocks) as blocks:
        (evaluation,) = evaluate_set(distilled, blocks)
    by_class = result.class_test_accuracies
    assert evaluation == ("FC1", result.validation_accuracy, result.test_accuracy, None, by_class)
    sizes = np.bincount(data.load(distilled.origin.data).test.labels)
    assert np.average(by_class, weights=sizes) == pytest.approx(result.test_accuracy)


def test_evaluating_a_set_under_other_kernels_gives_one_result_each(run):
    result, distilled = run
    kernels = [kernel_named(name) for name in ("FC1", "ConvVec1", "RBF", "Laplace")]
    with KernelBlocks() as blocks:
        evaluations = evaluate_set(distilled, blocks, kernels=kernels)
    assert [evaluation.kernel for evaluation in evaluations] == ["FC1", "ConvVec1", "RBF", "Laplace"]
    assert evaluations[0].test_accuracy == result.test_accuracy
    assert all(0.5 < evaluation.test_accuracy < 1 for evaluation in evaluations)
    assert len({evaluation.test_accuracy for evaluation in evaluations}) > 1
    dataset = data.load(distilled.experiment.data)
    transform = preprocess.fit(distilled.experiment.preprocess, dataset.train.images)
    support, inputs = distilled.images_preprocessed, transform.apply(dataset.test.images)
    with KernelBlocks() as blocks:
        laplace = krr_accuracy(
            blocks, Laplace(), of_kind(TINY.method, KIP).ridge, support, distilled.labels, inputs, dataset.test.labels
        )
    assert evaluations[3].test_accuracy == laplace


def test_evaluating_a_set_under_random_features_is_the_judge_of_rfad(run):
    _, distilled = run
    few, many = (RandomFeatures(NETWORK, networks, krr.Ridge(1e-2), test_networks=3) for networks in (1, 6))
    with KernelBlocks() as blocks:
        kernel, one, six = evaluate_set(distilled, blocks, kernels=[FC1], features=[few, many])
        dataset = data.load(distilled.experiment.data)
        inputs = preprocess.fit(distilled.experiment.preprocess, dataset.train.images).apply(dataset.test.images)
        tools = Tools(blocks, (inputs[:0], dataset.test.labels[:0]), distilled.origin.seed)
        scores = many.accuracies(distilled.support, Question(inputs, dataset.test.labels, "test"), tools)
    assert kernel.kernel == "FC1"
    assert one.kernel == six.kernel == NETWORK.label
    assert (six.test_accuracy, six.test_spread) == (scores.mean(), pytest.approx(scores.std(ddof=1)))
    assert 0.15 < one.test_accuracy < six.test_accuracy  # more networks come closer to the infinite one


def test_a_ridge_takes_the_place_of_the_sets_own(run, digits):
    _, distilled = run
    with KernelBlocks(distilled.experiment.blocks) as blocks:
        (own,) = evaluate_set(distilled, blocks, kernels=[FC1])
        (same,) = evaluate_set(distilled, blocks, kernels=[FC1], ridge=of_kind(TINY.method, KIP).ridge)
        (other,) = evaluate_set(distilled, blocks, kernels=[FC1], ridge=krr.Ridge(10.0))
        accuracy = krr_accuracy(
            blocks, FC1, krr.Ridge(10.0), distilled.images_preprocessed, distilled.labels, *digits[2:]
        )
    assert own == same
    assert other.test_accuracy == accuracy != own.test_accuracy


@pytest.mark.parametrize("judged", ["kernel", "features"])
def test_a_long_evaluation_shows_how_far_it_is(run, judged, monkeypatch, capsys):
    monkeypatch.setattr("kip.progress.DELAY_SECONDS", 0)
    _, distilled = run
    options: dict[str, Any] = {"kernels": [FC1]} if judged == "kernel" else {"features": [RandomFeatures(NETWORK, 2)]}
    with KernelBlocks(Blocks(memory_mib=1)) as blocks:
        evaluate_set(distilled, blocks, **options, show_progress=True)
        shown = capsys.readouterr().err
        evaluate_set(distilled, blocks, **options)
    assert ("regression under FC1" if judged == "kernel" else NETWORK.label) in shown
    assert capsys.readouterr().err == ""


def test_a_set_is_evaluated_on_its_own_data_only(tmp_path, rng):
    images, labels = rng.integers(0, 256, (60, 4, 4, 1), dtype=np.uint8), np.arange(60) % 3
    arrays = {"x_train": images[:45], "y_train": labels[:45], "x_test": images[45:], "y_test": labels[45:]}
    for name, turn in (("own", 1), ("other", -1)):  # turned images have the same preprocessing parameters
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "toy.npz", **{**arrays, "x_train": arrays["x_train"][:, ::turn]})
    experiment = dataclasses.replace(
        TINY,
        data=data.Data("toy"),
        method=dataclasses.replace(of_kind(TINY.method, KIP), target_batch=12, kernels=(RBF(),)),
    )
    result = train.run(experiment, tmp_path / "run", data_dir=tmp_path / "own", show_progress=False)
    distilled = sets.load(tmp_path / "run" / "distilled.npz")
    with KernelBlocks() as blocks:
        assert evaluate_set(distilled, blocks, data_dir=tmp_path / "own")[0].test_accuracy == result.test_accuracy
        with pytest.raises(DataError, match=r"'toy' is not the one that this set was distilled from.*--data-dir"):
            evaluate_set(distilled, blocks, data_dir=tmp_path / "other")
