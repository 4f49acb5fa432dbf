"""CIFAR-10, DATM (matching with soft labels), 1 image a class, few and short experts of a quarter of the width.

The experts are those of `cifar10_mtt_10`; with `--method.no-learn-labels` the labels stay the classes.

Paper: Guo et al. 2024, Table 1: 46.9 +- 0.5 %, ZCA, 100 experts of 100 epochs, width 128.
Reached: 28.55 +- 0.59 % over 5 networks, from 22.22 % of 10 natural images with the experts' labels; validation 30.6 %
    at step 500, from 23.1 %. With hard labels (`--method.no-learn-labels`): 29.52 +- 0.64 %, from 19.59 %; so few and
    short experts have little to say in their labels.
Time: 674 s for the steps, and 2.5 GiB, on two CPU cores; the experts were there.
Command:

    kip distill cifar10_datm_10
"""

import kip
from kip.configs.cifar10_mtt_10 import EXPERTS, NETWORK

config = kip.Experiment(
    data=kip.Data("cifar10"),
    preprocess=kip.Preprocess("standardize"),
    method=kip.DATM(
        images_per_class=1,
        network=NETWORK,
        experts=EXPERTS,
        expert_epochs=2,
        last_start=4,
        student_steps=20,
        steps=1000,
        learning_rate=100.0,
        student_rate=0.02,
        rate_learning_rate=1e-6,
    ),
    checkpoint_every=250,
    reference=kip.Reference("Guo et al. 2024, Table 1, CIFAR-10, 1 a class, DATM", accuracy=0.469, spread=0.005),
)
