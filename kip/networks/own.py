"""Networks of the user's own: a Flax module that `FILE.py:NAME` or `package.module:NAME` names.

    class Net(nn.Module):
        num_outputs: int

        @nn.compact
        def __call__(self, x, train):
            features = nn.relu(nn.Dense(64)(x.reshape(len(x), -1)))
            return nn.Dense(self.num_outputs)(features), features

It is made with the number of outputs and called with images (N, H, W, C) and the flag `train`. It returns logits
(N, num_outputs) and the inputs of the last layer, (N, d). Running statistics are those of Flax's `nn.BatchNorm`, in the
collection `batch_stats`; other collections, and dropout, are not taken.

Loading it runs its file. A network that is named by data alone has to be permitted; see `kip.kernels.permission`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
from jax import Array

from kip.errors import ConfigError
from kip.kernels import permission, user_function

SIGNATURE = "of num_outputs that returns a Flax module, such as the module's class"


def is_own(name: str) -> bool:
    """Return True for the name of a network of the user's own."""
    return ":" in name


def source_of(name: str) -> str | None:
    """Return the SHA-256 of the file that `FILE.py:NAME` names; None for a module.

    Raises:
        ConfigError: if there is no such file.
    """
    return user_function.source_of(name, of="network")


@functools.lru_cache(maxsize=16)
def load(name: str, source: str | None) -> Callable[..., nn.Module]:
    """Return the function that makes the network.

    Args:
        name: `FILE.py:NAME` or `package.module:NAME`.
        source: the SHA-256 that its file had when the network was named; None: it is not known.

    Raises:
        ConfigError: if nobody permits it, it cannot be loaded, or its file is another one.
    """
    permission.check(name, of="network")
    user_function.check_source(name, source, of="network")
    return user_function.load_function(
        name, of="a network", signature=SIGNATURE, example="class NAME(flax.linen.Module): num_outputs: int; ..."
    )


class Own(nn.Module):
    """A network of the user's own, whose results are checked."""

    name_of: str
    source: str | None
    num_outputs: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Array]:
        """Return logits and features.

        Raises:
            ConfigError: if it is no Flax module, or returns something else.
        """
        inner: Any = load(self.name_of, self.source)(num_outputs=self.num_outputs)
        if not isinstance(inner, nn.Module):
            raise ConfigError(
                f"network {self.name_of!r}", got=f"a {type(inner).__name__}", expected="a flax.linen.Module"
            )
        returned = inner(x, train)
        shapes = [getattr(part, "shape", None) for part in returned] if isinstance(returned, tuple) else []
        if len(shapes) != 2 or shapes[0] != (len(x), self.num_outputs) or len(shapes[1] or ()) != 2:
            raise ConfigError(
                f"what the network {self.name_of!r} returns",
                got=f"shapes {shapes}" if shapes else f"a {type(returned).__name__}",
                expected=f"logits ({len(x)}, {self.num_outputs}) and features ({len(x)}, d)",
                remedy="End its __call__ with `return nn.Dense(self.num_outputs)(features), features`.",
            )
        return returned
