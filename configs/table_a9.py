"""KIP on CIFAR-100: ZCA, learned labels, augmentation (paper, Table A9)

Rows are named `ipcN_OPTIONS` after the table's check marks, N images a class: `zca`, `labels` (learned), `aug`, or
`plain` for none of them (without `zca`: standard preprocessing).

For `ipc10_zca_labels_aug` Table 1 has 49.5 +- 0.3 where this table has 51.2 +- 0.2. The table's network accuracies (NN
column) are no part of `reference`.

Expected: `reference` of each row, the KRR test accuracy under the same kernel, mean and standard deviation over the 5
checkpoints of lowest train loss.

Cost in the paper: hundreds of GPUs for each run; one step with 100 support images took 460 s of one V100, and its cost
grows with the number of support images. Most of the gain comes in the first 1000 of at most 50 000 steps.

    kip distill table_a9:ipc10_zca_labels_aug

Reference: Nguyen et al. 2021, "Dataset Distillation with Infinitely Wide Convolutional Networks", Table A9.
"""

import kip
from kip.configs._paper import kip_rows

ACCURACY = {  # percent, +-
    "ipc1_zca_labels_aug": (33.3, 0.3),
    "ipc1_zca_labels": (34.9, 0.1),
    "ipc1_zca_aug": (30.0, 0.2),
    "ipc1_zca": (31.8, 0.3),
    "ipc1_labels_aug": (26.2, 0.1),
    "ipc1_labels": (28.5, 0.1),
    "ipc1_aug": (18.8, 0.2),
    "ipc1_plain": (22.0, 0.3),
    "ipc10_zca_labels_aug": (51.2, 0.2),
    "ipc10_zca_labels": (47.9, 0.2),
    "ipc10_zca_aug": (45.2, 0.2),
    "ipc10_zca": (46.0, 0.2),
    "ipc10_labels_aug": (41.4, 0.2),
    "ipc10_labels": (42.5, 0.3),
    "ipc10_aug": (37.2, 0.1),
    "ipc10_plain": (38.4, 0.2),
}

rows: dict[str, kip.Experiment] = kip_rows("Table A9", "cifar100", ACCURACY)
