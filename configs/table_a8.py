"""Label Solve on SVHN, with and without ZCA (paper, Table A8)

Rows are named `ipcN_zca` and `ipcN_plain` (standard preprocessing) after the table's check marks, N images a class.

ZCA strength 100: the fallback of section A is about gradient updates, of which there are none here. The table's network
accuracies (NN column) are no part of `reference`.

Expected: `reference` of each row, the KRR test accuracy under the same kernel. It has no deviation: one random support
set.

Cost: one forward pass of the kernel between the whole train set and the support images: of the order of 10 forward
passes of a KIP step, each 120 s of one V100 with 100 support images.

    kip distill table_a8:ipc10_zca

Reference: Nguyen et al. 2021, "Dataset Distillation with Infinitely Wide Convolutional Networks", Table A8.
"""

import kip
from kip.configs._paper import label_solve_rows

ACCURACY = {  # percent
    "ipc1_zca": 23.9,
    "ipc1_plain": 21.1,
    "ipc10_zca": 52.8,
    "ipc10_plain": 40.1,
    "ipc50_zca": 76.8,
    "ipc50_plain": 69.2,
}

rows: dict[str, kip.Experiment] = label_solve_rows("Table A8", "svhn_cropped", ACCURACY)
