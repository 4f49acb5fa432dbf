"""A worker that goes wrong unseen for a while: the run goes back to before that, and ends with the same bits."""

import numpy as np
import pytest

from helpers import links, processes
from kip.server import service
from kip.server.executor import RemoteExecutor
from kip.server.member import Settings
from kip.workers.worker import Worker

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("from_step", [1, 5])
def test_wrong_results_that_went_into_steps_are_undone(tmp_path, from_step):
    """It computes wrongly from a step on; nothing of it is checked before step 7."""
    made = processes.experiment(steps=8)  # checkpoints at 0, 4 and 8
    expected = processes.run_locally(made, tmp_path / "local")
    out = tmp_path / "run"

    def step():
        path = out / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0  # a line for step 0 too

    wrong = links.with_result(lambda result: result * np.float32(1.01))

    def look():
        executor.scheduler.checks._share = 1.0 if step() > 6 else 1e-9

    def later(number, payload, answer):
        look()
        return wrong(number, payload, answer) if step() > from_step else answer

    def good(number, payload, answer):
        look()
        return links.slow(0.02)(number, payload, answer)

    workers = [links.ThreadLink("good", Worker(), good), links.ThreadLink("later", Worker(), later)]
    settings = Settings(check_share=1e-9, copy_after=60.0)
    executor = RemoteExecutor(workers, **service.introduction(made, None), settings=settings)
    with service.log_file(out):
        service.run(made, out, executor, show_progress=False)
    assert (out / "distilled.npz").read_bytes() == expected
    log = (out / "workers.log").read_text()
    assert "worker later is sent away (distrusted)" in log
    assert "the run goes back to its start" in log
    assert list((out / "checkpoints").glob("*.doubted"))
    rows = (out / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == 9
