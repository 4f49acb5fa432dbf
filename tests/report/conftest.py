"""What the tests of pictures share."""

import pytest

from kip.pictures import canvas, curves, images, panels


@pytest.fixture
def figures(monkeypatch):
    """Return the list into which saved figures go, beside the file."""
    kept = []
    for module in (curves, images, panels):
        monkeypatch.setattr(module, "save", lambda figure, path: (kept.append(figure), canvas.save(figure, path)))
    return kept
