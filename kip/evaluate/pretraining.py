"""Does pre-training on a KRR-ST set help on a second data set: against as many real images, and against none.

For each seed a fresh network is pre-trained, then frozen, and a linear probe of its features is fitted to labelled
images of the second data set.

Reference: Lee et al. 2024 (KRR-ST), Table 1, whose networks are fine-tuned instead; the sets compared are the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import jax
import numpy as np

from kip import data, preprocess
from kip.errors import ConfigError
from kip.export import DistilledSet
from kip.finite import krr_st, probe, teacher
from kip.finite.krr_st import KRRST
from kip.finite.networks import Model
from kip.rng import generator

Start = Literal["distilled", "random", "none"]


def pretraining_accuracies(
    distilled: DistilledSet,
    second: data.Data,
    *,
    start: Start,
    seeds: int = 3,
    labelled: int = 1000,
    data_dir: Path | None = None,
) -> np.ndarray:
    """Return the test accuracy on a second data set of probes of pre-trained networks, (seeds,).

    Args:
        distilled: a set of KRR-ST; it says with what network and how long to pre-train.
        second: the data set that the probe is of; its images have the shape of the source's.
        start: what networks are pre-trained on: the set; or as many random train images of its source, with the
            teacher's representations of them, drawn anew for each seed; or nothing.
        seeds: networks. labelled: train images of the second data set that a probe learns from.
        data_dir: where `NAME.npz` is, if not in $KIP_DATA_DIR.

    Raises:
        ConfigError: if the set is of another method.
        ShapeError: if the second data set's images have another shape.
    """
    experiment = distilled.experiment
    config = experiment.method
    if not isinstance(config, KRRST):
        raise ConfigError("the method of the set", got=config.name, expected="krr_st")
    source = data.load(experiment.data, data_dir)
    transform = preprocess.fit(experiment.preprocess, source.train.images)
    other = data.load(second, data_dir)
    train, test = (transform.apply(split.images) for split in (other.train, other.test))
    inputs = transform.apply(source.train.images) if start == "random" else None
    model = Model(config.network, distilled.labels.shape[1])
    results = []
    for seed in range(seeds):
        key = (seed, "pretraining", 0)
        if inputs is not None:
            chosen = generator(seed, "random images").choice(len(inputs), len(distilled.labels), replace=False)
            guide, known = teacher.train(config.teacher, inputs, seed=experiment.seed)
            images = inputs[chosen]
            variables = krr_st.pretrained(config, images, teacher.represent(guide, known, images), key=key)
        elif start == "distilled":
            variables = krr_st.pretrained(config, distilled.images_preprocessed, distilled.labels, key=key)
        else:
            variables = model.init(jax.random.key(seed), train.shape[1:])
        accuracy = probe.linear_probe(
            model, variables, train, other.train.labels, test, other.test.labels, count=labelled, seed=seed
        )
        results.append(accuracy)
    return np.array(results)
