"""Dataset condensation with gradient matching, DC (published rows)

Rows are named `DATA_ipcN`, N images a class.

The paper's 1000 iterations are 1000 steps for each network of the outer loop.

Expected: `reference` of each row, from Zhao, Mopuri, Bilen 2021.
None of these rows was run here: they are for an accelerator. Smaller configurations: `mnist_dc_10`, `cifar10_dc_10`.

    kip distill dc:cifar10_ipc10

Reference: Zhao, Mopuri, Bilen 2021, "Dataset Condensation with Gradient Matching".
"""

import kip
from kip.configs._matching import images_per_class, row

ACCURACY = {  # percent, +-
    "mnist_ipc1": (91.7, 0.5),
    "mnist_ipc10": (97.4, 0.2),
    "mnist_ipc50": (98.8, 0.2),
    "cifar10_ipc1": (28.3, 0.5),
    "cifar10_ipc10": (44.9, 0.5),
    "cifar10_ipc50": (53.9, 0.5),
    "cifar100_ipc1": (12.8, 0.3),
    "cifar100_ipc10": (25.2, 0.3),
}

rows: dict[str, kip.Experiment] = {
    name: row(
        name,
        kip.DC(
            images_per_class=(ipc := images_per_class(name)),
            steps=1000 * {1: 1, 10: 10, 50: 50}[ipc],
            protocol=kip.PROTOCOLS["DC-MNIST" if name.startswith("mnist") else "DC"],
        ),
        ACCURACY,
        "Zhao, Mopuri, Bilen 2021, Table 1",
    )
    for name in ACCURACY
}
