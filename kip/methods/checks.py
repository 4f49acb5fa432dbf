"""Checks that methods share: of networks before the steps, and of numbers after each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kip.errors import ConfigError, NonFiniteError
from kip.networks.model import Network
from kip.networks.own import is_own
from kip.precision import AnyArray


def refuse_batch_norm(network: Network, what: str) -> None:
    """Refuse networks whose outputs for an image depend on the others of its batch.

    Args:
        network: the network.
        what: its name in the error.

    Raises:
        ConfigError: if the network has batch normalisation.
    """
    if network.batch_normalised:
        raise ConfigError(
            what,
            got=f"{network.label}, with batch normalisation",
            expected="instance, layer or no normalisation",
            remedy="Add `norm=instance` to the network.",
        )


def refuse_own(network: Network, what: str, *, why: str) -> None:
    """Refuse networks of the user's own, where a method has to know their layers.

    Raises:
        ConfigError: if the network is one.
    """
    if is_own(network.name):
        raise ConfigError(
            what,
            got=network.label,
            expected="a network of the table",
            remedy=f"{why} A network of your own may judge the set.",
        )


def check_finite(loss: float, parameters: Mapping[str, AnyArray]) -> None:
    """Refuse an update that is not finite.

    Args:
        loss: the loss before the update.
        parameters: the learned arrays after it, by name.

    Raises:
        NonFiniteError: if the loss or an array holds NaN or infinity.
    """
    if not (np.isfinite(loss) and all(np.isfinite(np.asarray(part)).all() for part in parameters.values())):
        raise NonFiniteError(
            f"the loss or the learned {' and '.join(parameters)} hold NaN or infinity",
            remedy="Lower the learning rates.",
        )
