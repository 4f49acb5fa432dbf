"""Artefacts, made once before a run's steps or before an evaluation, and kept: teachers, pools, expert trajectories.

An artefact is one pytree of arrays in one `.npz` file. Whoever makes it saves it part by part, or saves its state as
the work goes on, so that a kill loses the time since the last save and nothing else. A damaged file, or one of another
identity, is made again.

Processes that need the same artefact make it once: who holds its lock makes it, and the others wait and find it
(`Artefact.made_once`). Of independent artefacts, each process makes those that no other one is making (`share_out`).

    runs/NAME/artefacts/pool-3-5f0c....npz       belongs to one run
    CACHE/artefacts/teacher-91ab....npz          depends on data and configuration alone: shared between runs
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kip.errors import DataError, OutputError
from kip.progress import Work, progress_bar
from kip.storage.files import atomic_write, cache_dir
from kip.storage.images import Images, Lazy, parts
from kip.storage.locks import sole_maker
from kip.storage.npz import read_arrays

LOGGER = logging.getLogger(__name__)
_BEGUN: weakref.WeakKeyDictionary[Lazy, Any] = weakref.WeakKeyDictionary()
"""SHA-256 that were begun with images that are not in memory, which takes as long as a pass over them."""


class NotShared(Exception):
    """An artefact of one run alone has been made, by a process that makes shared ones for it."""


class Artefact:
    """One file that holds a pytree of arrays.

    Args:
        path: the file.
        is_kept: False: nobody needs it, and `save` raises `NotShared`.
    """

    def __init__(self, path: Path, *, is_kept: bool = True):
        self.path, self._is_kept = path, is_kept

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
        if not self._is_kept:
            raise NotShared(self.path.name)
        arrays: dict[str, Any] = {name: np.asarray(leaf) for name, leaf in _leaves(tree).items()}
        try:
            atomic_write(self.path, lambda file: np.savez(file, **arrays))
        except OutputError as error:
            LOGGER.warning("the artefact is not kept: %s", error)

    def made_once(self) -> contextlib.AbstractContextManager[bool]:
        """Return the context in which the artefact is looked for and, if it is not there, made.

        It waits while another process is in it.
        """
        return sole_maker(self.path)


class Store:
    """The artefacts that a run, or an evaluation, may find or make.

    Args:
        folder: the folder of the run's own artefacts. None means that there is no run, and all are shared.
        show_progress: whether `progress` draws a bar on stderr.
        only_shared: whether the caller makes shared artefacts for a run and leaves the run's own to it: the first own
            one that is saved raises `NotShared`.
    """

    def __init__(self, folder: Path | None = None, *, show_progress: bool = True, only_shared: bool = False):
        self._shared = cache_dir() / "artefacts"
        self._folder = folder or self._shared
        self._only_shared = only_shared
        self.show_progress = show_progress

    def artefact(self, name: str, identity: Any, *, shared: bool = False) -> Artefact:
        """Return the place of one artefact; nothing is read or written.

        Args:
            name: what it is, such as `teacher`; the beginning of its file's name.
            identity: JSON-ready: everything that its values depend on. Another identity is another file.
            shared: whether it depends on data and configuration alone, so that other runs may use it.
        """
        folder = self._shared if shared else self._folder
        return Artefact(folder / f"{name}-{identified(identity)}.npz", is_kept=shared or not self._only_shared)

    def progress(self, total: int, description: str) -> Work:
        """Return a progress bar of `total` units; update it with `.update(n)` and close it, or use it in `with`."""
        return progress_bar(total, description, shown=self.show_progress)


def share_out(artefacts: Sequence[Artefact]) -> Iterator[int]:
    """Yield the place of each of some independent artefacts, for it to be looked for and made while its lock is held.

    Processes that do so at the same time share the work: each one first takes what no other one is making. Then come
    the others, each as soon as its maker has made it, or has been killed.

    Args:
        artefacts: in the order in which one process alone makes them.
    """
    left = []
    for place, artefact in enumerate(artefacts):
        with sole_maker(artefact.path, waits=False) as is_held:
            if is_held:
                yield place
        if not is_held:
            left.append(place)
    for place in left:
        with artefacts[place].made_once():
            yield place


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
