"""Label Solve on CIFAR-10, with and without ZCA (paper, Table A6)

Rows are named `ipcN_zca` and `ipcN_plain` (standard preprocessing) after the table's check marks, N images a class.

The table's network accuracies (NN column) are no part of `reference`.

Expected: `reference` of each row, the KRR test accuracy under the same kernel. It has no deviation: one random support
set.

Cost: one forward pass of the kernel between the whole train set and the support images: of the order of 10 forward
passes of a KIP step, each 120 s of one V100 with 100 support images.

    kip distill table_a6:ipc10_zca

Reference: Nguyen et al. 2021, "Dataset Distillation with Infinitely Wide Convolutional Networks", Table A6.
"""

import kip
from kip.configs._paper import label_solve_rows

ACCURACY = {  # percent
    "ipc1_zca": 26.1,
    "ipc1_plain": 26.3,
    "ipc10_zca": 53.6,
    "ipc10_plain": 46.3,
    "ipc50_zca": 65.9,
    "ipc50_plain": 57.4,
}

rows: dict[str, kip.Experiment] = label_solve_rows("Table A6", "cifar10", ACCURACY)
