"""KIP on MNIST: learned labels, augmentation (paper, Table A3)

Rows are named `ipcN_OPTIONS` after the table's check marks, N images a class: `labels` (learned), `aug`, or `plain` for
none of them; grey images have standard preprocessing.

The deviations here are 0.0 where Table 1 has 0.1 for the same runs. The table's network accuracies (NN column) are no
part of `reference`.

Expected: `reference` of each row, the KRR test accuracy under the same kernel, mean and standard deviation over the 5
checkpoints of lowest train loss.

Cost in the paper: hundreds of GPUs for each run; one step with 100 support images took 460 s of one V100, and its cost
grows with the number of support images. Most of the gain comes in the first 1000 of at most 50 000 steps.

    kip distill table_a3:ipc10_labels

Reference: Nguyen et al. 2021, "Dataset Distillation with Infinitely Wide Convolutional Networks", Table A3.
"""

import kip
from kip.configs._paper import kip_rows

ACCURACY = {  # percent, +-
    "ipc1_labels_aug": (96.5, 0.0),
    "ipc1_labels": (97.3, 0.0),
    "ipc1_aug": (95.2, 0.2),
    "ipc1_plain": (95.1, 0.1),
    "ipc10_labels_aug": (99.1, 0.0),
    "ipc10_labels": (99.1, 0.0),
    "ipc10_aug": (98.4, 0.0),
    "ipc10_plain": (98.4, 0.0),
    "ipc50_labels_aug": (99.5, 0.0),
    "ipc50_labels": (99.4, 0.0),
    "ipc50_aug": (99.1, 0.0),
    "ipc50_plain": (99.0, 0.0),
}

rows: dict[str, kip.Experiment] = kip_rows("Table A3", "mnist", ACCURACY)
