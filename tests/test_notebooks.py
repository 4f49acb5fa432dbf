"""The notebooks run from top to bottom and reach what they say."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from helpers.kinds import some

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
LEAST = {
    "digits": {"ten learned images": 90.0, "NumPy alone": 90.0, "recorded": 90.0},
    "theorem_1": {"self-supervised gradient, standard errors from the truth": 10.0},
}
"""What a notebook prints, and what it must reach. Of digits, percent: 94, less three deviations of 359 test images."""
PICTURES = {"digits": 2, "theorem_1": 1}


def name(path):
    return path.stem


def printed(notebook):
    """Return all that the cells wrote to stdout and stderr."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.text for output in outputs if output.output_type == "stream")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_notebook_is_stored_with_its_outputs_and_no_path_of_a_machine(path):
    text = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, 4)
    assert any(cell.get("outputs") for cell in notebook.cells)
    assert not any(folder in text for folder in ("/home/", "/tmp/", "/root/", "/Users/"))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_notebook_runs_and_reaches_its_accuracies(path, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    text = printed(notebook)
    for what, least in LEAST[path.stem].items():
        assert float(some(re.search(rf"{what}: ([\d.]+)", text))[1]) >= least, text
    pictures = [o for cell in notebook.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    assert len(pictures) == PICTURES[path.stem]
