"""Dataset condensation with differentiable siamese augmentation, DSA (published rows)

Rows are named `DATA_ipcN`, N images a class.

The paper's 1000 iterations are 1000 steps for each network of the outer loop.

Expected: `reference` of each row, from Zhao and Bilen 2021.
None of these rows was run here: they are for an accelerator. Smaller configurations: `mnist_dsa_10`, `cifar10_dsa_10`.

    kip distill dsa:cifar10_ipc10

Reference: Zhao and Bilen 2021, "Dataset Condensation with Differentiable Siamese Augmentation".
"""

import kip
from kip.configs._matching import images_per_class, row

ACCURACY = {  # percent, +-
    "mnist_ipc1": (88.7, 0.6),
    "mnist_ipc10": (97.8, 0.1),
    "mnist_ipc50": (99.2, 0.1),
    "cifar10_ipc1": (28.8, 0.7),
    "cifar10_ipc10": (52.1, 0.5),
    "cifar10_ipc50": (60.6, 0.5),
    "cifar100_ipc1": (13.9, 0.3),
    "cifar100_ipc10": (32.3, 0.3),
    "cifar100_ipc50": (42.8, 0.4),
}

rows: dict[str, kip.Experiment] = {
    name: row(
        name,
        kip.DSA(images_per_class=(ipc := images_per_class(name)), steps=1000 * ipc),
        ACCURACY,
        "Zhao and Bilen 2021, Table 1",
    )
    for name in ACCURACY
}
