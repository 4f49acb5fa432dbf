"""KIP on Fashion-MNIST: learned labels, augmentation (paper, Table A4)

Rows are named `ipcN_OPTIONS` after the table's check marks, N images a class: `labels` (learned), `aug`, or `plain` for
none of them; grey images have standard preprocessing.

The table's network accuracies (NN column) are no part of `reference`.

Expected: `reference` of each row, the KRR test accuracy under the same kernel, mean and standard deviation over the 5
checkpoints of lowest train loss.

Cost in the paper: hundreds of GPUs for each run; one step with 100 support images took 460 s of one V100, and its cost
grows with the number of support images. Most of the gain comes in the first 1000 of at most 50 000 steps.

    kip distill table_a4:ipc10_labels

Reference: Nguyen et al. 2021, "Dataset Distillation with Infinitely Wide Convolutional Networks", Table A4.
"""

import kip
from kip.configs._paper import kip_rows

ACCURACY = {  # percent, +-
    "ipc1_labels_aug": (76.7, 0.2),
    "ipc1_labels": (82.9, 0.2),
    "ipc1_aug": (76.6, 0.1),
    "ipc1_plain": (78.9, 0.2),
    "ipc10_labels_aug": (88.8, 0.1),
    "ipc10_labels": (91.0, 0.1),
    "ipc10_aug": (85.3, 0.1),
    "ipc10_plain": (87.6, 0.1),
    "ipc50_labels_aug": (91.0, 0.1),
    "ipc50_labels": (92.4, 0.1),
    "ipc50_aug": (88.1, 0.2),
    "ipc50_plain": (90.0, 0.1),
}

rows: dict[str, kip.Experiment] = kip_rows("Table A4", "fashion_mnist", ACCURACY)
