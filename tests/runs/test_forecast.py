"""What is said before a run begins: memory that is not there, and time that is long."""

import numpy as np
import pytest

import kip
from helpers.kinds import some
from kip import data, preprocess
from kip.blocks import KernelBlocks
from kip.errors import DataError
from kip.preprocess import zca
from kip.runs import forecast
from kip.runs.forecast import Forecast
from kip.runs.setup import check_data, problem_of


def experiment(kernel, steps=3, target_batch=50):
    return kip.Experiment(kip.KIP(1, kernels=(kernel,), steps=steps, target_batch=target_batch))


def forecast_of(made, done=0):
    dataset = data.load(made.data)
    transform = preprocess.fit(made.preprocess, dataset.train.images)
    with KernelBlocks() as blocks:
        return forecast.forecast(made, problem_of(made, dataset, transform, blocks, None), done)


def test_a_zca_beyond_the_memory_is_refused_before_it_allocates():
    """224x224 RGB asked for 169 GiB in one array, and ended in NumPy's traceback."""
    images = np.zeros((2, 224, 224, 3), np.uint8)
    with pytest.raises(DataError, match=r"zca of images of 224x224x3; got 150528 features.* 675 GiB.*standardize"):
        zca.fit(images, kind="zca", regularization=0.1)


def test_images_beyond_the_memory_are_refused_with_their_size(monkeypatch):
    made = experiment(kip.Architecture("FC", 1))
    dataset = data.load(made.data)
    check_data(made, dataset)
    values = 1797 * 64
    monkeypatch.setattr(forecast, "memory_bytes", lambda: 5 * values - 1)
    with pytest.raises(DataError, match=f"images of 'digits' do not fit into memory; got {values} values"):
        check_data(made, dataset)


def test_the_time_is_that_of_an_entry_times_the_entries_of_the_steps_that_are_left():
    found = some(forecast_of(experiment(kip.Architecture("ConvNet", 1), steps=30, target_batch=100), done=10))
    assert found.entries == 10 * 100 + 55
    assert found.steps == 20
    seconds = some(found.entry_seconds)
    assert 0 < seconds < 1
    assert found.seconds == pytest.approx(seconds * 1055 * 20)


def test_label_solve_is_timed_without_a_gradient(monkeypatch):
    monkeypatch.setattr(KernelBlocks, "backward", lambda *arguments: pytest.fail("it was differentiated"))
    method = kip.LabelSolve(1, kernel=kip.Architecture("ConvNet", 1))
    found = some(forecast_of(kip.Experiment(method, preprocess=kip.Preprocess("standardize"))))
    assert found.entries == 10 * len(data.load(kip.Data("digits")).train.labels) + 55


@pytest.mark.parametrize("kernel", [kip.Architecture("FC", 1), kip.RBF()], ids=["FC1", "RBF"])
def test_nothing_is_forecast_for_cheap_kernels(kernel):
    assert forecast_of(experiment(kernel)) is None


def test_only_a_long_run_is_told_and_a_very_long_one_with_advice(capsys):
    forecast.tell(None)
    forecast.tell(Forecast("ConvNet", 1e-3, 1000, 10))
    assert capsys.readouterr().err == ""
    forecast.tell(Forecast("ConvNet", 1e-3, 1000, 4000))
    said = capsys.readouterr().err
    assert "about 1000 microseconds per entry" in said
    assert "1000 entries and takes about 1.0 seconds, the 4000 steps that are left about 67 minutes" in said
    assert "GPU" not in said
    forecast.tell(Forecast("ConvNet", 1e-3, 500_000, 5000))
    said = capsys.readouterr().err
    assert "29 days" in said
    assert "a GPU makes it shorter" in said
