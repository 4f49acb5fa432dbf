"""CIFAR-10, RDED, 100 images, scored and judged by narrow ConvNet-D3s.

Published: 50.2 % on ConvNet-D3 of width 128, as other papers report it, by a teacher's labels of every view.
Not run yet; `main_table:cifar10_rded_ipc10`, with 8 epochs of squeezing, was measured at 41.4 +- 0.3 % by a teacher's
labels of every view (SL+KD, a teacher of 10 epochs without augmentation) and at 35.8 +- 0.6 % by hard labels.
Meant for two CPU cores: a quarter of the width, 10 epochs of squeezing; batches of 50, as RDED's public code has them
for 10 images of each of 10 classes.
Command:

    kip distill cifar10_rded_100
"""

import kip
from kip.configs.cifar10_sre2l_100 import NETWORK, SQUEEZE
from kip.training.protocols import for_set

config = kip.Experiment(
    data=kip.Data("cifar10"),
    preprocess=kip.Preprocess("standardize"),
    method=kip.RDED(
        images_per_class=10,
        network=NETWORK,
        squeeze=SQUEEZE,
        evaluation_network=NETWORK,
        protocol=for_set(kip.PROTOCOLS["RDED"], classes=10, images_per_class=10, student=NETWORK, teacher=NETWORK),
    ),
    checkpoint_every=1,
    reference=kip.Reference("RDED, as other papers report it, CIFAR-10, 10 a class, ConvNet-D3", accuracy=0.502),
)
