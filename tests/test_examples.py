"""The PyTorch example loads and trains on an exported set without kip, where torch is installed."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from helpers.interpreter import printed
from kip import cli, data, krr, preprocess, sets
from kip.experiment import Experiment
from kip.functions.stored import write_kernel
from kip.kernels.architecture import Architecture
from kip.methods.kernel.kip import KIP
from kip.preprocess import saved
from kip.runs import loop as train
from kip.runs.arrays import distill

FOLDER = Path(__file__).parents[1] / "examples"
EXAMPLE = Path(__file__).parents[1] / "examples" / "numpy_and_torch.py"


def test_the_example_trains_a_network_that_classifies_digits(tmp_path):
    torch = pytest.importorskip("torch")
    method = KIP(images_per_class=2, target_batch=500, steps=60, kernels=(Architecture("FC", 1),))
    train.run(Experiment(method=method), tmp_path / "run", show_progress=False)
    path = tmp_path / "run" / "distilled.npz"
    code = f"import sys, runpy; sys.argv = ['x', {str(path)!r}]; runpy.run_path({str(EXAMPLE)!r}, run_name='__main__');"
    code += "assert not {'kip', 'jax'} & set(sys.modules)"
    assert "20 images of digits" in printed(code)
    example = runpy.run_path(str(EXAMPLE))
    images, labels, about = example["load"](path)
    network, _ = example["train"](images, labels)
    test = data.load(data.Data("digits")).test
    with torch.no_grad():
        answers = network(example["preprocess"](test.images, about)).argmax(1).numpy()
    assert np.mean(answers == test.labels) > 0.7


TRAIN = data.load(data.Data("digits")).train
NEW = np.concatenate([data.load(data.Data("digits")).test.images[:50], np.full((1, 8, 8, 1), 7, np.uint8)])
"""New images, the last of one colour."""


@pytest.mark.parametrize("kind", ["zca", "zca_notebook", "zca_frepo", "zca_kornia"])
def test_numpy_alone_whitens_new_images_as_the_set_was(tmp_path, kind):
    transform = preprocess.fit(preprocess.Preprocess(kind), data.load(data.Data("digits")).train.images)
    saved.save(transform, tmp_path / "distilled.npz")
    example = runpy.run_path(str(FOLDER / "numpy_and_sklearn.py"))
    with np.load(tmp_path / "preprocess.npz", allow_pickle=False) as arrays:
        whitened = example["whitened"](NEW, arrays)
    np.testing.assert_allclose(whitened, transform.apply(NEW).reshape(51, -1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["standardize", "zca"])
def test_a_set_that_was_run_comes_with_what_new_images_need(tmp_path, kind):
    wanted = preprocess.Preprocess(kind)
    method = KIP(images_per_class=2, target_batch=200, steps=1, kernels=(Architecture("FC", 1),))
    run = tmp_path / "run"
    train.run(Experiment(method=method, preprocess=wanted), run, show_progress=False)
    assert (run / "preprocess.npz").exists() == (kind == "zca")
    example = runpy.run_path(str(FOLDER / "numpy_and_sklearn.py"))
    images, classes, treated = example["load"](run / "distilled.npz")
    assert (images.shape, len(classes)) == ((20, 64), 20)
    expected = preprocess.fit(wanted, data.load(data.Data("digits")).train.images).apply(NEW)
    np.testing.assert_allclose(treated(NEW), expected.reshape(51, -1), rtol=1e-4, atol=1e-4)
    if kind == "zca":
        assert cli.main(["export", str(run), "--step", "0", "--out", str(tmp_path / "first.npz")]) == 0
        kept = [np.load(path)["whitening"] for path in (run / "preprocess.npz", tmp_path / "first.preprocess.npz")]
        np.testing.assert_array_equal(*kept)
        with np.load(run / "preprocess.npz") as file:
            changed = {**file, "whitening": 2 * file["whitening"]}
        np.savez(run / "preprocess.npz", **changed)
        with pytest.raises(SystemExit, match="not the one that this set was whitened with"):
            example["load"](run / "distilled.npz")


@pytest.mark.slow
def test_ten_images_of_kip_probe_an_encoder_better_than_natural_ones(monkeypatch, capsys):
    monkeypatch.delenv("KIP_DATA_DIR", raising=False)
    learned, natural = runpy.run_path(str(FOLDER / "encoder_probe.py"))["main"](steps=20)
    assert learned > max(natural) > 0.3
    assert "KIP's ten images" in capsys.readouterr().out


def test_numpy_and_scikit_learn_score_the_test_images(tmp_path):
    made = distill(
        *TRAIN, method=KIP(1, kernels=(Architecture("FC", 1),), target_batch=500, steps=10), show_progress=False
    )
    sets.save(tmp_path / "set.npz", made)
    test = data.load(data.Data("digits")).test
    np.savez(tmp_path / "digits.npz", x_test=test.images[..., 0], y_test=test.labels[:, None])
    path, arguments = str(FOLDER / "numpy_and_sklearn.py"), [str(tmp_path / name) for name in ("set.npz", "digits.npz")]
    code = f"import sys, runpy; sys.argv = ['x', *{arguments!r}]; runpy.run_path({path!r}, run_name='__main__')"
    said = re.search(r"359 test images: ([\d.]+) %", printed(code + "; assert not {'kip', 'jax'} & set(sys.modules)"))
    assert said
    assert float(said[1]) > 60


def test_whole_matrices_are_classified_by_three_methods(tmp_path):
    x = np.concatenate([np.full((20, 2, 2, 1), value) for value in (-1.0, 1.0)]).astype(np.float32)
    x += np.random.default_rng(0).normal(0, 0.1, x.shape).astype(np.float32)
    classes = np.repeat([0, 1], 20)
    kept = write_kernel(
        tmp_path / "k", x, x[::3], kernel="FC1", labels=classes, test_labels=classes[::3], show_progress=False
    )
    example = runpy.run_path(str(FOLDER / "kernel_matrix.py"))
    train, test, diagonal, *_ = example["load"](tmp_path / "k")
    labels = np.eye(2)[classes] - 0.5
    mean, variance = example["posterior"](train, test, diagonal, labels, ridge=0.1)
    np.testing.assert_allclose(mean, test @ krr.fit(kept.train, labels, krr.Ridge(0.1)), rtol=1e-6)
    a = train + 0.1 * np.trace(train) / 40 * np.eye(40)
    expected = [k - row @ np.linalg.solve(a, row) for k, row in zip(diagonal, np.asarray(test, np.float64))]
    np.testing.assert_allclose(variance, expected, rtol=1e-4, atol=1e-6)
    assert (variance > 0).all()
    path = str(FOLDER / "kernel_matrix.py")
    code = (
        f"import sys, runpy; sys.argv = ['x', {str(tmp_path / 'k')!r}]; runpy.run_path({path!r}, run_name='__main__')"
    )
    code += "; assert not {'kip', 'jax'} & set(sys.modules)"
    said = printed(code)
    assert "40 train images, 14 test images" in said
    assert said.count("100.00 % of test") == 2
