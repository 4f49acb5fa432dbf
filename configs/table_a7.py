"""KIP on SVHN: ZCA, learned labels, augmentation (paper, Table A7)

Rows are named `ipcN_OPTIONS` after the table's check marks, N images a class: `zca`, `labels` (learned), `aug`, or
`plain` for none of them (without `zca`: standard preprocessing).

ZCA strength 100 and learning rate 0.01; with ZCA and without augmentation 0.1 and 0.04, because training was unstable
(section A). The deviations of `ipc10_zca_labels_aug` and `ipc50_zca_labels_aug` are 0.5 and 0.1 in Table 1, and 0.6 and
0.2 here. The table's network accuracies (NN column) are no part of `reference`.

Expected: `reference` of each row, the KRR test accuracy under the same kernel, mean and standard deviation over the 5
checkpoints of lowest train loss.

Cost in the paper: hundreds of GPUs for each run; one step with 100 support images took 460 s of one V100, and its cost
grows with the number of support images. Most of the gain comes in the first 1000 of at most 50 000 steps.

    kip distill table_a7:ipc10_zca_labels_aug

Reference: Nguyen et al. 2021, "Dataset Distillation with Infinitely Wide Convolutional Networks", Table A7.
"""

import kip
from kip.configs._paper import kip_rows

ACCURACY = {  # percent, +-
    "ipc1_zca_labels_aug": (64.3, 0.4),
    "ipc1_zca_labels": (62.4, 0.2),
    "ipc1_zca_aug": (48.0, 1.1),
    "ipc1_zca": (48.1, 0.7),
    "ipc1_labels_aug": (54.5, 0.7),
    "ipc1_labels": (52.6, 1.1),
    "ipc1_aug": (40.0, 0.5),
    "ipc1_plain": (40.2, 0.5),
    "ipc10_zca_labels_aug": (81.1, 0.6),
    "ipc10_zca_labels": (79.3, 0.1),
    "ipc10_zca_aug": (75.8, 0.1),
    "ipc10_zca": (64.1, 0.3),
    "ipc10_labels_aug": (80.4, 0.3),
    "ipc10_labels": (79.3, 0.1),
    "ipc10_aug": (77.5, 0.3),
    "ipc10_plain": (76.5, 0.3),
    "ipc50_zca_labels_aug": (84.3, 0.2),
    "ipc50_zca_labels": (82.0, 0.1),
    "ipc50_zca_aug": (81.3, 0.2),
    "ipc50_zca": (72.4, 0.3),
    "ipc50_labels_aug": (84.0, 0.3),
    "ipc50_labels": (82.1, 0.1),
    "ipc50_aug": (81.7, 0.2),
    "ipc50_plain": (80.8, 0.2),
}

rows: dict[str, kip.Experiment] = kip_rows("Table A7", "svhn_cropped", ACCURACY)
