"""Label Solve on CIFAR-10 under the shallower ConvNet3 kernel (paper, Table A12)

Rows are named `ipcN_zca` and `ipcN_plain` (standard preprocessing) after the table's check marks, N images a class.

The kernel is ConvNet3: ConvNet without its first convolution and ReLU.

Expected: `reference` of each row, the KRR test accuracy under the same kernel. It has no deviation: one random support
set.

Cost: one forward pass of the kernel between the whole train set and the support images: of the order of 10 forward
passes of a KIP step, each 120 s of one V100 with 100 support images.

    kip distill table_a12:ipc10_zca

Reference: Nguyen et al. 2021, "Dataset Distillation with Infinitely Wide Convolutional Networks", Table A12.
"""

import kip
from kip.configs._paper import label_solve_rows

ACCURACY = {  # percent
    "ipc1_zca": 26.5,
    "ipc1_plain": 26.4,
    "ipc10_zca": 52.9,
    "ipc10_plain": 46.4,
    "ipc50_zca": 65.5,
    "ipc50_plain": 56.9,
}

rows: dict[str, kip.Experiment] = label_solve_rows("Table A12", "cifar10", ACCURACY, kip.Architecture("ConvNet3"))
