"""The scheduler's benchmark measures what it says; how fast this machine is, is not tested."""

import json

from kip.server import bench


def test_the_share_of_busy_time_is_that_of_the_spans(capsys):
    bench.main(["--workers", "2", "8", "--seconds", "0.5", "--task-seconds", "0.02"])
    for line, workers in zip(map(json.loads, capsys.readouterr().out.splitlines()), (2, 8), strict=True):
        assert line["workers"] == workers
        assert 0 < line["busy"] <= 1
        # A task takes 20 ms, so that tasks a second over workers is the busy share over 20 ms, but for the ends.
        assert abs(line["tasks_per_second"] * 0.02 / workers - line["busy"]) < 0.2
