"""The guide for contributors and the pre-commit file name the checks of `.ci/run`."""

from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_pre_commit_runs_the_quick_checks_of_ci_and_contributing_names_them():
    ci = (ROOT / ".ci/run").read_text()
    hooks, guide = ((ROOT / name).read_text() for name in (".pre-commit-config.yaml", "CONTRIBUTING.md"))
    for check in ("ruff check", "ruff format --check", "pyright --pythonpath .venv/bin/python"):
        assert f".venv/bin/{check}" in ci
        assert f"entry: .venv/bin/{check}\n" in hooks
        assert f"    .venv/bin/{check}\n" in guide
