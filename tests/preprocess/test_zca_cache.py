import logging
import os
from pathlib import Path

import numpy as np
import pytest

from kip.preprocess import Preprocess, fit, zca
from kip.storage import files

IMAGES = np.random.default_rng(0).integers(0, 256, (80, 4, 4, 3), dtype=np.uint8)


@pytest.fixture
def decompositions(monkeypatch):
    """Count how often a covariance is decomposed."""
    calls = []
    decompose = zca._decompose
    monkeypatch.setattr(zca, "_decompose", lambda lower: calls.append(1) or decompose(lower))
    return calls


def whiten(folder, images=IMAGES, **parameters):
    transform = fit(Preprocess(**{"kind": "zca", **parameters}), images, cache_dir=folder)
    return transform.apply(IMAGES[:5].reshape(-1, *images.shape[1:]))


def test_a_second_fit_gives_the_same_bits_without_computing(tmp_path, decompositions):
    first = whiten(tmp_path)
    np.testing.assert_array_equal(whiten(tmp_path), first)
    assert len(decompositions) == 1
    assert len(os.listdir(tmp_path)) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"images": np.concatenate([IMAGES[:-1], IMAGES[-1:] ^ 1])},
        {"images": IMAGES[::-1]},
        {"images": IMAGES.reshape(80, 2, 8, 3)},
        {"kind": "zca_notebook"},
        {"kind": "zca_frepo"},
        {"kind": "zca_kornia"},
    ],
)
def test_other_images_another_shape_or_kind_are_computed_anew(tmp_path, decompositions, change):
    whiten(tmp_path)
    whiten(tmp_path, **change)
    assert len(decompositions) == 2
    assert len(os.listdir(tmp_path)) == 2


def test_another_regularization_shares_the_spectrum_and_gives_its_own_whitening(tmp_path, decompositions):
    weak, strong = whiten(tmp_path, regularization=0.1), whiten(tmp_path, regularization=10.0)
    assert len(decompositions) == 1
    assert not np.allclose(weak, strong)
    np.testing.assert_array_equal(strong, whiten(tmp_path / "fresh", regularization=10.0))


@pytest.mark.parametrize("damage", ["garbage", "truncated", "flipped byte", "other arrays", "other size", "empty"])
def test_a_damaged_file_is_computed_anew_and_replaced(tmp_path, decompositions, damage, caplog):
    first = whiten(tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    if damage == "other arrays":
        np.savez(path, something=np.zeros(3))
    elif damage == "other size":
        np.savez(path, eigenvalues=np.ones(3), eigenvectors=np.eye(3))
    else:
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
        path.write_bytes(
            {"garbage": b"x" * 999, "truncated": whole[:middle], "flipped byte": flipped, "empty": b""}[damage]
        )
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(whiten(tmp_path), first)
    assert len(decompositions) == 2
    assert str(path) in caplog.text
    np.testing.assert_array_equal(whiten(tmp_path), first)
    assert len(decompositions) == 2


def test_a_folder_that_cannot_be_written_only_loses_the_cache(tmp_path, caplog):
    (tmp_path / "file").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        blocked = whiten(tmp_path / "file" / "cache")
    assert "not cached" in caplog.text
    np.testing.assert_array_equal(blocked, whiten(tmp_path / "cache"))


def test_kinds_that_are_cheap_write_nothing(tmp_path):
    for kind in ("none", "standardize"):
        whiten(tmp_path, kind=kind)
    assert not os.listdir(tmp_path)


def test_the_default_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("KIP_CACHE_DIR", str(tmp_path / "ours"))
    whiten(None)
    assert len(os.listdir(tmp_path / "ours")) == 1
    monkeypatch.delenv("KIP_CACHE_DIR")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert files.cache_dir() == tmp_path / "xdg" / "kip"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert files.cache_dir() == Path.home() / ".cache" / "kip"
