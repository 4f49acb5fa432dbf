"""Decompositions of ZCA kept on disk, because that of 32x32x3 images takes tens of seconds.

What is kept is the spectrum of the unregularised covariance. It depends on the images, their shape and the kind, and
all three are in the file's name with the version of the computation. It does not depend on the regularisation, which is
applied after loading: a sweep over it computes the spectrum once.
"""

from __future__ import annotations

import hashlib
import logging
import zipfile
import zlib
from pathlib import Path

import numpy as np

from kip.errors import OutputError
from kip.storage import files
from kip.storage.files import atomic_write, open_regular
from kip.storage.images import Images, parts

VERSION = 1
"""A number that is raised whenever the computation would give other results."""

log = logging.getLogger(__name__)


def load(images: Images, kind: str, cache_dir: Path | None) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the eigenvalues (d,) and eigenvectors (d, d) of an earlier fit, or None if there is no whole file of it.

    Args:
        images: the train images, uint8 (N, H, W, C).
        kind: the kind of ZCA.
        cache_dir: the folder; None: `kip.storage.files.cache_dir()`.
    """
    path, features = _path(images, kind, cache_dir), int(np.prod(images.shape[1:]))
    try:
        with open_regular(path) as file, np.load(file, allow_pickle=False) as archive:
            eigenvalues, eigenvectors = archive["eigenvalues"], archive["eigenvectors"]
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        log.warning("the cache file %s cannot be read (%s); computing it again", path, error)
        return None
    fits = eigenvalues.shape == (features,) and eigenvectors.shape == (features, features)
    if not fits or eigenvalues.dtype != np.float64 or eigenvectors.dtype != np.float64:
        log.warning("the cache file %s holds something else; computing it again", path)
        return None
    return eigenvalues, eigenvectors


def store(images: Images, kind: str, cache_dir: Path | None, eigenvalues: np.ndarray, eigenvectors: np.ndarray) -> None:
    """Keep a decomposition for the next fit to the same images; a folder that cannot be written costs only that."""
    path = _path(images, kind, cache_dir)
    try:
        atomic_write(path, lambda file: np.savez(file, eigenvalues=eigenvalues, eigenvectors=eigenvectors))
    except OutputError as error:
        log.warning("the ZCA decomposition is not cached: %s", error)


def _path(images: Images, kind: str, cache_dir: Path | None) -> Path:
    digest = hashlib.sha256(f"{VERSION} {kind} {images.shape} ".encode())
    for part in parts(images):
        digest.update(np.ascontiguousarray(part).data)
    return (files.cache_dir() if cache_dir is None else Path(cache_dir)) / f"zca-{digest.hexdigest()}.npz"
