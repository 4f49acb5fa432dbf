"""The guide for contributors, the pre-commit file and the hosted checks agree with `.ci/run`; one version, one name."""

import json
import re
from pathlib import Path

from kip import machine

ROOT = Path(__file__).parents[1]


def test_pre_commit_runs_the_quick_checks_of_ci_and_contributing_names_them():
    ci = (ROOT / ".ci/run").read_text()
    hooks, guide = ((ROOT / name).read_text() for name in (".pre-commit-config.yaml", "CONTRIBUTING.md"))
    for check in ("ruff check", "ruff format --check", "pyright --pythonpath .venv/bin/python"):
        assert f".venv/bin/{check}" in ci
        assert f"entry: .venv/bin/{check}\n" in hooks
        assert f"    .venv/bin/{check}\n" in guide


def test_the_hosted_checks_run_what_is_run_here():
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    newcomer = "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/python -m pytest"
    assert "- run: .ci/run\n" in workflow
    assert f"- run: {newcomer}\n" in workflow
    assert f"\n{newcomer}\n" in (ROOT / ".ci/run").read_text()
    supported = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
    assert f"python: {json.dumps(supported)}\n" in workflow


def test_one_version_and_one_name_stand_in_every_file():
    project = (ROOT / "pyproject.toml").read_text()
    (name,), (version,) = (re.findall(rf'^{key} = "(.+?)"', project, re.MULTILINE) for key in ("name", "version"))
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert re.search(rf"^## {re.escape(version)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert name == machine.DISTRIBUTION
    assert f'version("{name}")' in (ROOT / "kip/__init__.py").read_text()
    texts = [
        *ROOT.glob("*.md"),
        *(path for folder in ("docs", "kip", "server") for path in (ROOT / folder).rglob("*.[mp][dy]")),
    ]
    asked = {extra for path in texts for extra in re.findall(r"pip install '([\w-]+)\[", path.read_text())}
    assert asked == {name, "jax"}
