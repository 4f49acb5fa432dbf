"""Dataset condensation with differentiable siamese augmentation, DSA (published rows)

Rows are named `DATA_IPC`, IPC images a class.

The paper's 1000 iterations are 1000 steps for each network of the outer loop.

Expected: `reference` of each row, from Zhao and Bilen 2021.
None of these rows was run here: they are for an accelerator. Smaller configurations: `mnist_dsa_10`, `cifar10_dsa_10`.

    kip distill dsa:cifar10_10

Reference: Zhao and Bilen 2021, "Dataset Condensation with Differentiable Siamese Augmentation".
"""

import kip
from kip.configs._matching import row

ACCURACY = {  # percent, +-
    "mnist_1": (88.7, 0.6),
    "mnist_10": (97.8, 0.1),
    "mnist_50": (99.2, 0.1),
    "cifar10_1": (28.8, 0.7),
    "cifar10_10": (52.1, 0.5),
    "cifar10_50": (60.6, 0.5),
    "cifar100_1": (13.9, 0.3),
    "cifar100_10": (32.3, 0.3),
    "cifar100_50": (42.8, 0.4),
}

rows: dict[str, kip.Experiment] = {
    name: row(
        name,
        kip.DSA(images_per_class=(ipc := int(name.rsplit("_", 1)[1])), steps=1000 * ipc),
        ACCURACY,
        "Zhao and Bilen 2021, Table 1",
    )
    for name in ACCURACY
}
