"""Kernel matrices of an encoder's features, and their vjp: products of features that are computed once an image.

    K_ss = phi_s phi_s^T / d,    K_ts = phi_t phi_s^T / d
    dL/dphi_s = ((Kbar_ss + Kbar_ss^T) phi_s + Kbar_ts^T phi_t) / d,    dL/dX_s = its pull-back through the encoder

The work grows with the number of images and not of pairs, so that it is not cut into tasks and stays in this process.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kip.kernels import Features
from kip.kernels.encoder import encoder


class Encoded(NamedTuple):
    """The images of a step under an encoder.

    Attributes:
        kernel: names the encoder.
        support: X_s (n, H, W, C), in the dtype of the computation.
        phi_s: (n, d), float64.
        phi_t: (m, d), float64; (0, d) where there are no targets.
    """

    kernel: Features
    support: np.ndarray
    phi_s: np.ndarray
    phi_t: np.ndarray

    def pull(self, k_ss_bar: np.ndarray, k_ts_bar: np.ndarray) -> np.ndarray:
        """Return dL/dX_s, (n, H, W, C), of dL/dK_ss, every entry taken as independent, and dL/dK_ts."""
        bar = (k_ss_bar + k_ss_bar.T) @ self.phi_s + k_ts_bar.T @ self.phi_t
        return encoder(self.kernel).pull(self.support, bar / self.phi_s.shape[1])


def encoded(kernel: Features, support: np.ndarray, target: np.ndarray) -> Encoded:
    """Return the features of a step's images.

    Args:
        kernel: names the encoder.
        support: X_s (n, H, W, C), n >= 1.
        target: X_t (m, H, W, C); m may be 0.
    """
    features = encoder(kernel).features
    phi_s = features(support)
    return Encoded(kernel, support, phi_s, features(target) if len(target) else phi_s[:0])


def product(phi: np.ndarray, other: np.ndarray | None = None) -> np.ndarray:
    """Return phi other^T / d in float64; without `other`, phi phi^T / d, which is symmetric to the last bit."""
    if other is None:
        upper = np.triu(phi @ phi.T) / phi.shape[1]
        return upper + np.triu(upper, 1).T
    return phi @ other.T / phi.shape[1]
