"""The PyTorch example loads and trains on an exported set without kip, where torch is installed."""

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kip import data, train
from kip.distill import KIP
from kip.experiment import Experiment
from kip.kernels.architecture import Architecture

EXAMPLE = Path(__file__).parents[1] / "examples" / "numpy_and_torch.py"


def test_the_example_trains_a_network_that_classifies_digits(tmp_path):
    torch = pytest.importorskip("torch")
    method = KIP(images_per_class=2, target_batch=500, steps=60, kernels=(Architecture("FC", 1),))
    train.run(Experiment(method=method), tmp_path / "run", show_progress=False)
    path = tmp_path / "run" / "distilled.npz"
    code = f"import sys, runpy; sys.argv = ['x', {str(path)!r}]; runpy.run_path({str(EXAMPLE)!r}, run_name='__main__');"
    code += "assert not {'kip', 'jax'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "20 images of digits" in done.stdout
    example = runpy.run_path(str(EXAMPLE))
    images, labels, about = example["load"](path)
    network, _ = example["train"](images, labels)
    test = data.load(data.Data("digits")).test
    with torch.no_grad():
        answers = network(example["preprocess"](test.images, about)).argmax(1).numpy()
    assert np.mean(answers == test.labels) > 0.7
