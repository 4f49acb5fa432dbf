"""Train a small PyTorch network on a distilled set that kip exported: NumPy to load it, plain PyTorch to train.

    pip install numpy torch
    python numpy_and_torch.py runs/mnist_dm_10/distilled.npz mnist.npz

Neither kip nor JAX is needed. The second file has the test images that the network is scored on: uint8 x_test
(N, H, W, C) and y_test (N,). New images must be treated as the set was: `metadata` says how, for the preprocessings
`none` and `standardize`.
"""

import json
import sys

import numpy as np
import torch


def load(path):
    """Return images (n, C, H, W) and labels (n, classes) as tensors, and the metadata."""
    with np.load(path, allow_pickle=False) as file:
        images, labels = file["images_preprocessed"], file["labels"]
        about = json.loads(str(file["metadata"]))
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels), about


def preprocess(pixels, about):
    """Return uint8 images (N, H, W, C) as the network takes them, (N, C, H, W)."""
    x = (pixels / 255 - np.array(about["preprocess"]["mean"])) / np.array(about["preprocess"]["std"])
    return torch.from_numpy(x.astype(np.float32)).permute(0, 3, 1, 2)


def train(images, labels, *, steps=300, seed=0):
    """Return a network trained on the whole set at every step, by squared error on its labels."""
    torch.manual_seed(seed)
    channels, height, width = images.shape[1:]
    network = torch.nn.Sequential(
        torch.nn.Conv2d(channels, 32, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.AvgPool2d(2),
        torch.nn.Conv2d(32, 32, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(32 * (height // 2) * (width // 2), labels.shape[1]),
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(network(images), labels)
        loss.backward()
        optimizer.step()
    return network, loss.item()


def accuracy(network, path, about):
    """Return the share of a data set's test images that a network classifies right."""
    with np.load(path, allow_pickle=False) as file:
        pixels, classes = file["x_test"], file["y_test"].ravel()
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    with torch.no_grad():
        parts = [network(preprocess(pixels[start : start + 1000], about)) for start in range(0, len(pixels), 1000)]
    return float(np.mean(torch.cat(parts).argmax(1).numpy() == classes))


if __name__ == "__main__":
    images, labels, about = load(sys.argv[1])
    network, loss = train(images, labels)
    print(f"{len(images)} images of {about['experiment']['data']['name']}: training loss {loss:.4f}")
    if len(sys.argv) > 2:
        print(f"{100 * accuracy(network, sys.argv[2], about):.1f} % of the test images are classified right")
