"""Train a scikit-learn classifier on a distilled set that kip exported, with NumPy alone for the preprocessing.

    pip install numpy scikit-learn
    python numpy_and_sklearn.py runs/my_zca_run/distilled.npz cifar10.npz

Neither kip nor JAX is needed. The second file has the test images that the classifier is scored on: uint8 x_test
(N, H, W, C) and y_test (N,). New images must be treated as the set was. For channel standardisation `metadata` says
how; a set that was whitened (ZCA) has its whitening in `preprocess.npz` beside it.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression


def load(path):
    """Return the set's preprocessed images, flattened (n, d), their classes (n,), and a function for new images."""
    with np.load(path, allow_pickle=False) as file:
        images, classes = file["images_preprocessed"], file["labels"].argmax(1)
        about = json.loads(str(file["metadata"]))["preprocess"]
    if "mean" in about:
        return flat(images), classes, lambda pixels: standardised(pixels, about)
    with np.load(Path(path).with_name("preprocess.npz"), allow_pickle=False) as file:
        arrays = dict(file)
    whitening = np.ascontiguousarray(arrays["whitening"])
    if hashlib.sha256(whitening.tobytes()).hexdigest() != about["whitening_sha256"]:
        raise SystemExit("preprocess.npz is not the one that this set was whitened with")
    return flat(images), classes, lambda pixels: whitened(pixels, arrays)


def flat(images):
    """Return images (n, H, W, C) as rows (n, d)."""
    return images.reshape(len(images), -1)


def standardised(pixels, about):
    """Return uint8 images (n, H, W, C), standardised by channel, as rows."""
    return flat((pixels / 255 - np.array(about["mean"])) / np.array(about["std"]))


def whitened(pixels, arrays):
    """Return uint8 images (n, H, W, C), whitened, as rows."""
    x = (flat(pixels) / 255 - arrays["offset"]) / arrays["scale"]
    if arrays["image_scale"] != "nothing":
        x = x - x.mean(1, keepdims=True)
        size = x.std(1, keepdims=True) if arrays["image_scale"] == "deviation" else np.linalg.norm(x, axis=1)[:, None]
        x = np.where(size > 1e-6, x / np.maximum(size, 1e-6), 0)  # an image of one colour has no direction
    return x @ arrays["whitening"]


def test_split(path):
    """Return the test images of a data set, uint8 (N, H, W, C), and their classes (N,)."""
    with np.load(path, allow_pickle=False) as file:
        images, classes = file["x_test"], file["y_test"].ravel()
    return images[..., None] if images.ndim == 3 else images, classes


if __name__ == "__main__":
    images, classes, treated = load(sys.argv[1])
    classifier = LogisticRegression(max_iter=1000).fit(images, classes)
    print(f"{len(images)} images: {100 * classifier.score(images, classes):.0f} % of them are classified right")
    if len(sys.argv) > 2:
        test_images, test_classes = test_split(sys.argv[2])
        score = classifier.score(treated(test_images), test_classes)
        print(f"{len(test_images)} test images: {100 * score:.1f} % are classified right")
