import pytest


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """Runs here are about bits; drawing takes longer than they do."""
    monkeypatch.setattr("kip.runs.loop._Run._draw", lambda run: None)
