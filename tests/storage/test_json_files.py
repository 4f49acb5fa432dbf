"""metrics.jsonl and result.json, whatever became of them: the good rows, one warning, no traceback."""

import json
import logging

import pytest

from kip.storage.json_files import is_number, read_object, read_rows

GOOD = [{"step": 0, "validation_accuracy": 0.5}, {"step": 1, "loss": 0.25, "seconds": 1, "kernel": "FC1"}]
BAD_LINES = {
    "a number": b"5",
    "null": b"null",
    "an empty object": b"{}",
    "a list": b"[1, 2]",
    "a step of text": b'{"step": "x"}',
    "a step of truth": b'{"step": true}',
    "a step with a fraction": b'{"step": 1.5}',
    "a negative step": b'{"step": -1}',
    "a huge step": b'{"step": 1' + b"0" * 400 + b"}",
    "too many digits": b'{"step": 1' + b"0" * 10_000 + b"}",
    "seconds of text": b'{"step": 1, "seconds": "now"}',
    "an empty loss": b'{"step": 1, "loss": null}',
    "an accuracy that is a list": b'{"step": 1, "validation_accuracy": [1]}',
    "a cut line": b'{"step": 1, "lo',
    "no UTF-8": b'{"step": 1, "kernel": "\xff\xfe"}',
    "NUL bytes": b"\0" * 100,
    "a deep nest": b"[" * 100_000,
}


def write(path, *lines):
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


@pytest.mark.parametrize("case", BAD_LINES)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_bad_line_costs_itself_and_one_warning(tmp_path, caplog, case, place):
    lines = [json.dumps(row).encode() for row in GOOD]
    lines.insert(place, BAD_LINES[case])
    path = write(tmp_path / "metrics.jsonl", *lines)
    assert read_rows(path) == GOOD
    (record,) = caplog.records
    assert f"{path}: 1 of 3 lines are no rows" in record.getMessage()
    assert f"the first is line {place + 1}" in record.getMessage()


def test_many_bad_lines_give_one_warning(tmp_path, caplog):
    assert read_rows(write(tmp_path / "metrics.jsonl", *BAD_LINES.values())) == []
    assert len(caplog.records) == 1


def test_good_files_empty_lines_and_no_file_give_no_warning(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = tmp_path / "metrics.jsonl"
    assert read_rows(path) == []
    write(path, *(json.dumps(row).encode() for row in GOOD), b"")
    assert read_rows(path) == GOOD
    assert read_object(tmp_path / "result.json") is None
    assert not caplog.records


def test_a_folder_in_place_of_the_file_gives_a_warning(tmp_path, caplog):
    assert read_rows(tmp_path) == []
    assert read_object(tmp_path) is None
    assert len(caplog.records) == 2


RESULT = {"test_accuracy": 0.5, "steps": 3, "paper_steps": [1, 2], "out": "runs/x"}


def test_a_whole_result_comes_back(tmp_path, caplog):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(RESULT))
    assert read_object(path, ("test_accuracy", "steps")) == RESULT
    assert not caplog.records


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"5",
        b"null",
        b"[]",
        b"{}",
        json.dumps(RESULT).encode()[:40],
        b"\xff\xfe",
        b'{"test_accuracy": "x", "steps": 3}',
        b'{"test_accuracy": true, "steps": 3}',
        b'{"test_accuracy": 0.5}',
        b"{" * 100_000,
    ],
)
def test_a_damaged_result_is_none_with_one_warning(tmp_path, caplog, text):
    path = tmp_path / "result.json"
    path.write_bytes(text)
    assert read_object(path, ("test_accuracy", "steps")) is None
    (record,) = caplog.records
    assert f"{path} is damaged and is left out" in record.getMessage()


def test_what_a_number_is():
    assert all(map(is_number, (0, -1, 0.5, float("nan"), float("inf"))))
    assert not any(map(is_number, (True, None, "1", [1], 10**400)))
