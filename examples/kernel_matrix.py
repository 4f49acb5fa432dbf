"""Classify with whole kernel matrices that `kip kernel` has computed: ridge regression, an SVM, a Gaussian process.

    kip kernel digits --kernel FC1 --out digits_fc1
    python kernel_matrix.py digits_fc1

NumPy, SciPy and scikit-learn read the files; neither kip nor JAX is needed. The matrices are memory maps: each step
reads what it takes.
"""

import sys
from pathlib import Path

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from sklearn.svm import SVC

RIDGE = 1e-4
"""What is added to the diagonal, in units of its mean: the variance of the labels' noise, for the Gaussian process."""


def load(folder):
    """Return K(X, X), K(Z, X), the K(z, z), and the classes of X and Z."""
    folder = Path(folder)
    train, test = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("train", "test"))
    rest = (np.load(folder / f"{name}.npy") for name in ("test_diagonal", "train_labels", "test_labels"))
    return train, test, *rest


def posterior(train, test, diagonal, labels, ridge=RIDGE):
    """Return the mean (m, classes) and the variance (m,) of a Gaussian process on centred one-hot labels (n, classes).

    mean = K_ts A^-1 y and variance = K(z, z) - K_ts A^-1 K_st, with A = K_ss + ridge tr(K_ss) / n I. The mean is the
    prediction of kernel ridge regression.
    """
    a = np.array(train, np.float64)
    a[np.diag_indices_from(a)] += ridge * np.trace(a) / len(a)
    factor = cho_factor(a, lower=True, overwrite_a=True)
    mean = test @ cho_solve(factor, labels)
    variance = np.concatenate(
        [
            diagonal[start : start + 1000] - np.einsum("ij,ji->i", rows, cho_solve(factor, rows.T))
            for start in range(0, len(test), 1000)
            for rows in [np.asarray(test[start : start + 1000], np.float64)]
        ]
    )
    return mean, variance


def accuracy(predicted, classes):
    """Return the share of classes that are predicted."""
    return float(np.mean(predicted == classes))


if __name__ == "__main__":
    train, test, diagonal, classes, test_classes = load(sys.argv[1])
    labels = np.eye(classes.max() + 1)[classes]
    mean, variance = posterior(train, test, diagonal, labels - labels.mean(axis=1, keepdims=True))
    right = mean.argmax(axis=1) == test_classes
    sure = variance <= np.median(variance)
    print(f"{len(train)} train images, {len(test)} test images")
    print(f"ridge regression  {100 * right.mean():.2f} % of test")
    print(f"  the surer half  {100 * right[sure].mean():.2f} %, the other {100 * right[~sure].mean():.2f} %")
    scale = np.mean(np.diagonal(train))
    machine = SVC(C=10.0, kernel="precomputed").fit(np.asarray(train) / scale, classes)
    print(f"SVM               {100 * accuracy(machine.predict(np.asarray(test) / scale), test_classes):.2f} % of test")
