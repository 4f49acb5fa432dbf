"""What several tests of evaluation begin with."""

import pytest

from kip.experiment import Experiment
from kip.kernels import Architecture
from kip.methods.kernel.kip import KIP
from kip.runs import loop


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run that has ended: ten digits under FC1. Tests leave it as it is."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    method = KIP(images_per_class=1, target_batch=200, steps=2, kernels=(Architecture("FC", 1),))
    loop.run(Experiment(method=method), out, show_progress=False)
    return out
