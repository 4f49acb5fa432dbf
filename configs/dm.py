"""Dataset condensation with distribution matching, DM (published rows)

Rows are named `DATA_ipcN`, N images a class.

Expected: `reference` of each row, from Zhao and Bilen 2023.
None of these rows was run here: they are for an accelerator. Smaller configurations: `mnist_dm_10`, `cifar10_dm_10`.

    kip distill dm:cifar10_ipc10

Reference: Zhao and Bilen 2023, "Dataset Condensation with Distribution Matching".
"""

import kip
from kip.configs._matching import images_per_class, row

ACCURACY = {  # percent, +-
    "cifar10_ipc1": (26.0, 0.8),
    "cifar10_ipc10": (48.9, 0.6),
    "cifar10_ipc50": (63.0, 0.4),
    "cifar100_ipc1": (11.4, 0.3),
    "cifar100_ipc10": (29.7, 0.3),
    "cifar100_ipc50": (43.6, 0.4),
}

rows: dict[str, kip.Experiment] = {
    name: row(name, kip.DM(images_per_class=images_per_class(name)), ACCURACY, "Zhao and Bilen 2023, Table 1")
    for name in ACCURACY
}
