"""KIP on CIFAR-10 under the shallower ConvNet3 kernel (paper, Table A11)

Rows are named `ipcN_OPTIONS` after the table's check marks, N images a class: `zca`, `labels` (learned), `aug`, or
`plain` for none of them (without `zca`: standard preprocessing).

The kernel is ConvNet3: ConvNet without its first convolution and ReLU, as in the DC and DSA papers but for their
instance normalisation.

Expected: `reference` of each row, the KRR test accuracy under the same kernel, mean and standard deviation over the 5
checkpoints of lowest train loss.

Cost in the paper: hundreds of GPUs for each run; one step with 100 support images took 460 s of one V100, and its cost
grows with the number of support images. Most of the gain comes in the first 1000 of at most 50 000 steps.

    kip distill table_a11:ipc10_zca_labels_aug

Reference: Nguyen et al. 2021, "Dataset Distillation with Infinitely Wide Convolutional Networks", Table A11.
"""

import kip
from kip.configs._paper import kip_rows

ACCURACY = {  # percent, +-
    "ipc1_zca_labels_aug": (62.6, 0.2),
    "ipc1_zca_labels": (65.8, 0.2),
    "ipc1_zca_aug": (58.7, 0.5),
    "ipc1_zca": (59.1, 0.4),
    "ipc1_labels_aug": (53.4, 0.3),
    "ipc1_labels": (56.3, 0.3),
    "ipc1_aug": (48.7, 0.6),
    "ipc1_plain": (50.1, 0.2),
    "ipc10_zca_labels_aug": (74.5, 0.3),
    "ipc10_zca_labels": (74.4, 0.2),
    "ipc10_zca_aug": (65.9, 0.1),
    "ipc10_zca": (67.0, 0.4),
    "ipc10_labels_aug": (68.3, 0.1),
    "ipc10_labels": (68.7, 0.2),
    "ipc10_aug": (59.6, 0.2),
    "ipc10_plain": (60.8, 0.2),
    "ipc50_zca_labels_aug": (79.6, 0.2),
    "ipc50_zca_labels": (76.5, 0.1),
    "ipc50_zca_aug": (70.4, 0.1),
    "ipc50_zca": (71.7, 0.2),
    "ipc50_labels_aug": (73.7, 0.1),
    "ipc50_labels": (71.5, 0.3),
    "ipc50_aug": (65.9, 0.2),
    "ipc50_plain": (66.9, 0.2),
}

rows: dict[str, kip.Experiment] = kip_rows("Table A11", "cifar10", ACCURACY, kip.Architecture("ConvNet3"))
