"""Post-training: fresh networks learn a set under a named protocol, with the labels that the protocol asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import Array

from kip.errors import ConfigError
from kip.networks import Model
from kip.networks.model import Variables
from kip.rng import key
from kip.storage.artefacts import Store
from kip.training.ensembles import train_all
from kip.training.predict import logits
from kip.training.protocols import Protocol
from kip.training.relabel import relabel
from kip.training.supervised import Labeller


def post_train(
    model: Model,
    protocol: Protocol,
    images: np.ndarray,
    labels: np.ndarray,
    keys: Array,
    *,
    mirror_keeps_class: bool,
    seed: int = 0,
    rate: float | None = None,
    teachers: Sequence[Labeller] = (),
    store: Store | None = None,
    show_progress: bool = False,
    what: str = "network",
) -> list[Variables]:
    """Return r fresh networks that learned a set; one that diverges is no error.

    Args:
        model: the network.
        protocol: its training and its labels.
        images: the set, (n, H, W, C), preprocessed.
        labels: the set's labels, (n, c).
        keys: (r,), of initial parameters, and of batches and views where the protocol does not store their labels.
        mirror_keeps_class: whether images may be flipped.
        seed: the root seed of the views whose labels are stored.
        rate: the rate that the set was learned with, for protocols that take it; None: it has none.
        teachers: networks that label, where the protocol asks for it; their logits are averaged. On views that are
            labelled in the training, there is one.
        store: keeps labels of views, where the protocol stores them; None: the one that is shared.
        show_progress: whether bars are shown on stderr.
        what: the name of the training, for the bars.

    Raises:
        ConfigError: if the protocol needs a teacher and there is none, or one alone and there are several; or if it
            takes the set's rate and there is none.
    """
    if protocol.needs_teacher and not teachers:
        raise ConfigError(f"teacher of {protocol.name}", got="none", expected="a trained network")
    online = protocol.labels == "teacher on views"
    if online and len(teachers) > 1:
        raise ConfigError(
            f"teachers of {protocol.name}",
            got=len(teachers),
            expected="one, which labels views in the training",
            remedy="Take labels='stored views' for the mean of several.",
        )
    highest = protocol.rate_for(rate)
    recipe = protocol.recipe(len(images), mirror_keeps_class=mirror_keeps_class)
    options: dict[str, Any] = {"teacher": teachers[0]} if online else {}
    if protocol.labels == "teacher":
        labels = np.mean([logits(each.model, each.variables, images) for each in teachers], axis=0)
    elif protocol.labels == "stored views":
        views = key(seed, f"views of {protocol.name}")
        kept = store or Store(show_progress=show_progress)
        stored = relabel(teachers, recipe, images, views, kept, what=f"{what}, labels of views")
        options = {"views": views, "stored": stored.reader}
    count = len(keys)
    return train_all(
        model,
        recipe,
        keys,
        np.full(count, highest),
        np.full(count, protocol.decay),
        images,
        labels,
        None,
        may_diverge=True,
        show_progress=show_progress,
        what=what,
        **options,
    ).variables
