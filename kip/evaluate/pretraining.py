"""Does pre-training on a KRR-ST set help on a second data set: against as many real images, and against none.

For each seed a fresh network is pre-trained; then a linear probe of its frozen features is fitted to labelled images of
the second data set, or all of it is fine-tuned on them behind a fresh last layer.

Reference: Lee et al. 2024 (KRR-ST), section 4.1 and Table 1: fine-tuning by SGD at 0.01 with momentum 0.9, weight decay
5e-4, cosine, batches of 256, 10 000 or 5000 updates.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import jax
import numpy as np

from kip import data, preprocess
from kip.errors import ConfigError
from kip.evaluate import training
from kip.evaluate.training import Recipe
from kip.export import DistilledSet
from kip.finite import krr_st, probe, teacher
from kip.finite.krr_st import KRRST
from kip.finite.networks import READOUT, Model, Variables
from kip.rng import generator

Start = Literal["distilled", "random", "none"]
How = Literal["probe", "fine-tune"]

FINE_TUNING = Recipe(loss="xent", steps=5000, batch=256, evaluations=1, keep="last")
RATE, DECAY = 0.01, 5e-4
"""Learning rate at its highest and weight decay of fine-tuning."""


def pretraining_accuracies(
    distilled: DistilledSet,
    second: data.Data,
    *,
    start: Start,
    how: How = "probe",
    steps: int = FINE_TUNING.steps,
    seeds: int = 3,
    labelled: int = 1000,
    data_dir: Path | None = None,
) -> np.ndarray:
    """Return the test accuracy on a second data set of pre-trained networks, (seeds,).

    Args:
        distilled: a set of KRR-ST; it says with what network and how long to pre-train.
        second: the data set that they are judged on; its images have the shape of the source's.
        start: what networks are pre-trained on: the set; or as many random train images of its source, with the
            teacher's representations of them, drawn anew for each seed; or nothing.
        how: a linear probe of frozen features, or fine-tuning of the whole network.
        steps: updates of fine-tuning.
        seeds: networks. labelled: train images of the second data set that a probe or fine-tuning learns from.
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
    train, test, validation = (transform.apply(split.images) for split in (other.train, other.test, other.validation))
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
        if how == "fine-tune":
            accuracy = _fine_tuned(model, variables, other, train, test, validation, steps, labelled, seed)
        else:
            accuracy = probe.linear_probe(
                model, variables, train, other.train.labels, test, other.test.labels, count=labelled, seed=seed
            )
        results.append(accuracy)
    return np.array(results)


def _fine_tuned(
    model: Model,
    pretrained: Variables,
    other: data.Dataset,
    train: np.ndarray,
    test: np.ndarray,
    validation: np.ndarray,
    steps: int,
    labelled: int,
    seed: int,
) -> float:
    """Return the test accuracy of a pre-trained network that has learned labelled images, its last layer anew."""
    chosen = data.class_balanced(
        other.train.labels, labelled, num_classes=other.num_classes, seed=seed, purpose="linear probe"
    )
    images, labels = train[chosen], np.eye(other.num_classes)[other.train.labels[chosen]]
    network = Model(model.network, other.num_classes)

    def begin(fresh: Variables) -> Variables:
        params = {**pretrained["params"], READOUT: fresh["params"][READOUT]}
        return {**pretrained, "params": params}

    recipe = dataclasses.replace(FINE_TUNING, steps=steps)
    keys = jax.random.key(seed)[None]
    trained = training.train(
        network, recipe, keys, np.array([RATE]), np.array([DECAY]), images, labels,
        (validation, other.validation.labels), begin=begin,
    )  # fmt: skip
    return float(training.accuracy(network, trained.variables[0], test, other.test.labels))
