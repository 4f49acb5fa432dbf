"""The cost of a step on paper: small cases that are computed by hand, and what has to hold of all."""

import json

import pytest

from kip.server import wide
from kip.server.wide import IMAGE_BYTES, INDEX_BYTES, Links, Work

FAST = Links(server=1e9, down=1e9, up=1e9, latency=0.0, message=0.0)


def test_without_links_a_step_takes_its_entries():
    for workers in (1, 7, 64):
        step = wide.star(Work(workers, 100, 5000, 1e-3), FAST)
        alone = 1e-3 * (100 * 5000 + 100 * 101 / 2)
        assert alone / workers <= step.seconds < 1.3 * alone / workers
        assert wide.tree(Work(workers, 100, 5000, 1e-3), FAST).compute == step.compute


def test_the_server_sends_the_images_to_each_worker_in_turn():
    links = FAST._replace(server=8.0)  # a megabyte a second
    images = 100 * IMAGE_BYTES + 5000 * INDEX_BYTES
    assert wide.star(Work(20, 100, 5000, 0.0), links).broadcast == pytest.approx(20 * images / 1e6)
    assert wide.star(Work(20, 100, 5000, 0.0), FAST._replace(latency=0.5)).broadcast == pytest.approx(0.5, abs=1e-3)
    assert wide.star(Work(20, 100, 5000, 0.0), FAST._replace(message=0.1)).broadcast == pytest.approx(2.0)


def test_passed_on_images_take_a_few_uploads_however_many_workers_there_are():
    links = FAST._replace(up=8.0)
    images = 100 * IMAGE_BYTES + 5000 * INDEX_BYTES
    few, many = (wide.tree(Work(workers, 100, 5000, 0.0), links, 3).broadcast for workers in (3, 3000))
    assert few == pytest.approx((3 * images + 3 * wide.CHUNK_BYTES) / 1e6)  # one level
    assert many == pytest.approx(few + 6 * 3 * wide.CHUNK_BYTES / 1e6)  # 3 + 9 + ... + 3^7 are enough
    work = Work(3000, 100, 5000, 0.0)
    assert wide.tree(work, links).server_bytes < wide.star(work, links).server_bytes / 100


def test_the_command_prints_a_line_for_each_way_and_number(capsys):
    wide.main(["--workers", "10", "1000", "--latency", "0.2"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["workers"], row["way"]) for row in rows] == [
        (10, "star"),
        (10, "tree"),
        (1000, "star"),
        (1000, "tree"),
    ]
    for row in rows:
        assert row["seconds"] == pytest.approx(row["broadcast"] + row["compute"] + row["gather"], abs=0.02)
    assert rows[3]["seconds"] < rows[2]["seconds"]
