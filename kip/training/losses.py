"""The losses that networks are trained by, by name; f are a network's outputs (N, c), y the labels (N, c).

| name | loss of one example | used by |
|---|---|---|
| `mse` | 1/(2c) sum_j (f_j - y_j)^2 | transfer; the default |
| `half_sum` | 1/2 sum_j (f_j - y_j)^2 | FRePo |
| `mean` | 1/c sum_j (f_j - y_j)^2 | KRR-ST's public code |
| `xent` | -log softmax(f)_k, k = argmax y | protocols with hard labels |
| `soft_xent` | -sum_j y_j log softmax(f)_j, linear in y, which need not be normalised | label distillation |
| `kl` | KL(softmax(y / T) || softmax(f / T)), with labels as logits, not times T^2 | protocols with soft labels |

The loss of a batch is the mean over its examples. Barlow Twins' loss couples the examples of a batch, and is a function
of its own.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jax import Array

Loss = Literal["mse", "half_sum", "mean", "xent", "soft_xent", "kl"]


def per_example(loss: Loss, outputs: Array, labels: Array, *, temperature: float = 1.0) -> Array:
    """Return the loss of each example, (N,).

    Args:
        loss: its name in the table above.
        outputs: f (N, c).
        labels: y (N, c).
        temperature: T of `kl`.
    """
    if loss in ("mse", "half_sum", "mean"):
        squares = (outputs - labels) ** 2
        if loss == "half_sum":
            return 0.5 * jnp.sum(squares, axis=1)
        return (0.5 if loss == "mse" else 1.0) * jnp.mean(squares, axis=1)
    if loss == "xent":
        return optax.softmax_cross_entropy_with_integer_labels(outputs, labels.argmax(1))
    if loss == "soft_xent":
        return -jnp.sum(labels * jax.nn.log_softmax(outputs), axis=1)
    target = jax.nn.softmax(labels / temperature)
    log_ratio = jnp.log(jnp.maximum(target, 1e-30)) - jax.nn.log_softmax(outputs / temperature)
    return jnp.sum(target * log_ratio, axis=1)


def barlow_twins(z_a: Array, z_b: Array, trade_off: float) -> Array:
    """Return the redundancy-reduction loss of two views' embeddings z (N, e), standardised over the batch.

        C = z_a^T z_b / N,    L = sum_i (1 - C_ii)^2 + trade_off * sum_{i != j} C_ij^2

    Reference: Zbontar et al. 2021, "Barlow Twins", equation 1.
    """

    def standardised(z: Array) -> Array:
        return (z - z.mean(axis=0)) / jnp.sqrt(z.var(axis=0) + 1e-5)

    correlation = standardised(z_a).T @ standardised(z_b) / len(z_a)
    diagonal = jnp.diagonal(correlation)
    on = jnp.sum((1 - diagonal) ** 2)
    return on + trade_off * (jnp.sum(correlation**2) - jnp.sum(diagonal**2))
