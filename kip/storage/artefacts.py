"""Artefacts, made once before a run's steps or before an evaluation, and kept: teachers, pools, expert trajectories.

An artefact is one pytree of arrays in one `.npz` file. Whoever makes it saves it part by part, or saves its state as
the work goes on, so that a kill loses the time since the last save and nothing else. A damaged file, or one of another
identity, is made again.

    runs/NAME/artefacts/pool-3-5f0c....npz       belongs to one run
    CACHE/artefacts/teacher-91ab....npz          depends on data and configuration alone: shared between runs
"""

from __future__ import annotations

import hashlib
import json
import logging
import weakref
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kip.errors import DataError, OutputError
from kip.progress import Work, progress_bar
from kip.storage.files import atomic_write, cache_dir
from kip.storage.images import Images, Lazy, parts
from kip.storage.npz import read_arrays

LOGGER = logging.getLogger(__name__)
_BEGUN: weakref.WeakKeyDictionary[Lazy, Any] = weakref.WeakKeyDictionary()
"""SHA-256 that were begun with images that are not in memory, which takes as long as a pass over them."""


class Artefact:
    """One file that holds a pytree of arrays.

    Args:
        path: the file.
    """

    def __init__(self, path: Path):
        self.path = path

    def load(self, like: Any) -> Any | None:
        """Return the saved pytree, or None where there is none that can be used.

        Args:
            like: a pytree of the structure, shapes and dtypes that are expected; its values do not matter.
        """
        wanted = _leaves(like)
        if not self.path.exists():
            return None
        try:
            arrays = read_arrays(self.path, list(wanted))
        except DataError as error:
            LOGGER.warning("%s It is made again.", error)
            return None
        for name, leaf in wanted.items():
            if (arrays[name].shape, arrays[name].dtype) != (np.shape(leaf), _dtype(leaf)):
                LOGGER.warning("%s holds %s of another shape or dtype; it is made again", self.path, name)
                return None
        return jax.tree.unflatten(jax.tree.structure(like), list(arrays.values()))

    def save(self, tree: Any) -> None:
        """Write a pytree, atomically. Where that fails, a warning says so: the work is lost only for a next start."""
        arrays: dict[str, Any] = {name: np.asarray(leaf) for name, leaf in _leaves(tree).items()}
        try:
            atomic_write(self.path, lambda file: np.savez(file, **arrays))
        except OutputError as error:
            LOGGER.warning("the artefact is not kept: %s", error)


class Store:
    """The artefacts that a run, or an evaluation, may find or make.

    Args:
        folder: the folder of the run's own artefacts. None means that there is no run, and all are shared.
        show_progress: whether `progress` draws a bar on stderr.
    """

    def __init__(self, folder: Path | None = None, *, show_progress: bool = True):
        self._shared = cache_dir() / "artefacts"
        self._folder = folder or self._shared
        self.show_progress = show_progress

    def artefact(self, name: str, identity: Any, *, shared: bool = False) -> Artefact:
        """Return the place of one artefact; nothing is read or written.

        Args:
            name: what it is, such as `teacher`; the beginning of its file's name.
            identity: JSON-ready: everything that its values depend on. Another identity is another file.
            shared: whether it depends on data and configuration alone, so that other runs may use it.
        """
        return Artefact((self._shared if shared else self._folder) / f"{name}-{identified(identity)}.npz")

    def progress(self, total: int, description: str) -> Work:
        """Return a progress bar of `total` units; update it with `.update(n)` and close it, or use it in `with`."""
        return progress_bar(total, description, shown=self.show_progress)


def identified(identity: Any) -> str:
    """Return a file's name for what a result depends on, JSON-ready: another identity gives another name."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


def digest(*arrays: Images) -> str:
    """Return the SHA-256 of arrays' shapes and bytes, by which an artefact knows what it was made from."""
    content = hashlib.sha256()
    for place, array in enumerate(arrays):
        if place == 0 and isinstance(array, Lazy):
            content = _begun(array)
        else:
            _add(content, array)
    return content.hexdigest()


def _begun(images: Lazy) -> Any:
    """Return a SHA-256 that has images' shape and bytes; they are read once."""
    if images not in _BEGUN:
        _BEGUN[images] = hashlib.sha256()
        _add(_BEGUN[images], images)
    return _BEGUN[images].copy()


def _add(content: Any, array: Images) -> None:
    content.update(repr((array.shape, array.dtype.str)).encode())
    for part in parts(array) if isinstance(array, Lazy) else [array]:
        content.update(np.ascontiguousarray(part).data)


def _leaves(tree: Any) -> dict[str, Any]:
    """Name each leaf by its place in the tree."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _dtype(leaf: Any) -> np.dtype[Any]:
    return np.dtype(leaf.dtype) if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
