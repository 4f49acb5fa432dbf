"""The scaling law of repeated data: the test error that a set of some size reaches after some epochs.

With n images and k epochs, n_j = j n the images seen after epoch j,

    y_k = a n_1^(b_1) prod_{j=2..k} (n_j / n_{j-1})^(b_j) + d,    b_j = b (1/2)^((j - 1) / tau):

an image is worth half as much after tau epochs. a scales, b < 0 is what images are worth, d is what stays. The law is
fitted to the errors of many trainings by least squares, from several starts.

The figures that the paper prints as delta = (1/2)^(1/tau) are above 1 and can only be tau; they are read as such.

Reference: Goyal et al. 2024, "Scaling Laws for Data Filtering"; "Rethinking Dataset Distillation: Hard Truths About
Soft Labels", supplement, equations 7 and 8.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kip.errors import ConfigError, DataError

LEAST = 5
"""Points that are needed: one more than parameters."""
LOG_TAU = (-2, 8)
"""Between which log tau is sought."""


class Observation(NamedTuple):
    """A training: the images of its set, its epochs, and its test error as a fraction."""

    images: int
    epochs: int
    error: float


class ScalingLaw(NamedTuple):
    """The law's parameters; errors are fractions."""

    a: float
    b: float
    d: float
    tau: float

    @property
    def wears_out(self) -> bool:
        """True if images lose worth with epochs at all; False where tau is at the bound of the search."""
        return bool(self.tau < 0.99 * np.exp(LOG_TAU[1]))

    def error(self, images: int, epochs: int) -> float:
        """Return y_k of a set of `images` after `epochs`."""
        return float(_errors(self, np.array([images]), np.array([epochs]))[0])


def fit(observations: Sequence[Observation]) -> ScalingLaw:
    """Return the law of least squared errors.

    Args:
        observations: trainings; of several sizes, and of several numbers of epochs.

    Raises:
        DataError: if they are fewer than `LEAST`, or all of one size or one number of epochs.
    """
    from scipy.optimize import least_squares

    images, epochs, errors = np.array(observations, float).reshape(-1, 3).T
    images, epochs = images.astype(int), epochs.astype(int)
    if len(observations) < LEAST or len(set(images)) < 2 or len(set(epochs)) < 2:
        raise DataError(
            "trainings for a scaling law",
            got=f"{len(observations)} of {len(set(images))} sizes and {len(set(epochs))} numbers of epochs",
            expected=f"at least {LEAST}, of two sizes and of two numbers of epochs",
        )

    def law(parameters: np.ndarray) -> ScalingLaw:
        log_a, log_b, logit_d, log_tau = parameters
        return ScalingLaw(np.exp(log_a), -np.exp(log_b), 1 / (1 + np.exp(-logit_d)), np.exp(log_tau))

    def residuals(parameters: np.ndarray) -> np.ndarray:
        return _errors(law(parameters), images, epochs) - errors

    bounds = [-10, -6, -12, LOG_TAU[0]], [10, 2, 6, LOG_TAU[1]]
    best = None
    for b, d, tau in itertools.product((0.05, 0.2, 0.6), (0.02, 0.2, 0.5), (1.0, 5.0, 30.0)):
        start = np.clip([np.log(max(errors)), np.log(b), np.log(d / (1 - d)), np.log(tau)], *bounds)
        fitted = least_squares(residuals, start, bounds=bounds)
        if best is None or fitted.cost < best.cost:
            best = fitted
    assert best is not None
    return ScalingLaw(*map(float, law(best.x)))


def held_against(seen: Sequence[Observation], held_out: int) -> dict[str, Any]:
    """Fit the law to all but the trainings that have seen most images, and hold it against these; JSON-ready.

    Args:
        seen: trainings.
        held_out: how many the law is not fitted to.

    Returns:
        `law`, `wears_out`, and `observations` by the images that were seen: what they are, `predicted` and `held_out`.

    Raises:
        ConfigError: if no training would be left.
        DataError: as `fit`.
    """
    if not 0 <= held_out < len(seen):
        raise ConfigError("--held-out", got=held_out, expected=f"0 to {len(seen) - 1}, of {len(seen)} trainings")
    seen = sorted(seen, key=lambda one: (one.images * one.epochs, one.images))
    fitted = len(seen) - held_out
    law = fit(seen[:fitted])
    rows = [
        {**one._asdict(), "predicted": law.error(one.images, one.epochs), "held_out": place >= fitted}
        for place, one in enumerate(seen)
    ]
    return {"law": law._asdict(), "wears_out": law.wears_out, "observations": rows}


def observations(table: Mapping[str, Any], protocol: str, method: str | None) -> list[Observation]:
    """Return the trainings of a table of `kip compare`.

    Args:
        table: the contents of its comparison.json.
        protocol: such as `SL+KD`; all of its numbers of epochs are taken.
        method: of which sets; None: of all.

    Raises:
        DataError: if the table is none, or has no such training.
        ConfigError: if it has several data sets or networks.
    """
    try:
        images = {row["name"]: int(row["images"]) for row in table["sets"]}
        epochs = {name: int(count) for name, count in table["epochs"].items()}
        cells = [
            cell
            for cell in table["cells"]
            if cell["protocol"].partition(" ")[0] == protocol and method in (None, cell["method"])
        ]
        kinds = {(cell["data"], cell["preprocess"], cell["network"]) for cell in cells}
        made = [Observation(images[c["candidate"]], epochs[c["protocol"]], 1 - float(c["mean"])) for c in cells]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            "a table for a scaling law", got=repr(error), expected="comparison.json of `kip compare`"
        ) from None
    if not made:
        raise DataError(
            f"trainings under {protocol}" + (f" of {method}" if method else ""),
            got="none in the table",
            expected=", ".join(sorted(epochs)),
        )
    if len(kinds) > 1:
        raise ConfigError(
            "a table for a scaling law", got=f"{len(kinds)} data sets or networks", expected="one of each"
        )
    return made


def _errors(law: ScalingLaw, images: np.ndarray, epochs: np.ndarray) -> np.ndarray:
    """Return y_k for each pair of a size and a number of epochs."""
    most = int(np.max(epochs))
    steps = np.arange(2, most + 1)
    exponents = law.b * 0.5 ** ((steps - 1) / law.tau)
    logs = np.concatenate([[0.0], np.cumsum(exponents * np.log(steps / (steps - 1)))])
    return law.a * np.exp(law.b * np.log(images) + logs[np.asarray(epochs) - 1]) + law.d
