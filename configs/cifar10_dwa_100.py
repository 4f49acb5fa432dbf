"""CIFAR-10, DWA, 100 images, recovered from and judged by narrow ConvNet-D3s.

Paper: Du et al. 2024: 45.0 +- 0.4 % on ConvNet-D3, width 128, 200 epochs of squeezing, 1000 iterations, by a teacher's
labels of every view.
Not run yet; `main_table:cifar10_dwa_ipc10`, with 8 epochs of squeezing, was measured at 36.8 +- 0.1 % by a teacher's
labels of every view (SL+KD, a teacher of 10 epochs without augmentation) and at 28.3 +- 0.5 % by hard labels.
Meant for two CPU cores: a quarter of the width, 10 epochs of squeezing, 250 iterations.
Command:

    kip distill cifar10_dwa_100
"""

import kip
from kip.configs.cifar10_sre2l_100 import NETWORK, PROTOCOL, SQUEEZE

config = kip.Experiment(
    data=kip.Data("cifar10"),
    preprocess=kip.Preprocess("standardize"),
    method=kip.DWA(
        images_per_class=10,
        network=NETWORK,
        squeeze=SQUEEZE,
        iterations=250,
        evaluation_network=NETWORK,
        protocol=PROTOCOL,
    ),
    checkpoint_every=2500,
    reference=kip.Reference("Du et al. 2024, CIFAR-10, 10 a class, ConvNet-D3", accuracy=0.45, spread=0.004),
)
