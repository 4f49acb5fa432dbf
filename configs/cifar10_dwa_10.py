"""CIFAR-10, DWA, 10 images a class, recovered from and judged by narrow ConvNet-D3s.

Paper: Du et al. 2024: 45.0 +- 0.4 % on ConvNet-D3, width 128, 200 epochs of squeezing, 1000 iterations.
Not run yet.
Meant for two CPU cores: a quarter of the width, 10 epochs of squeezing, 250 iterations.
Command:

    kip distill cifar10_dwa_10
"""

import dataclasses

import kip

NETWORK = kip.Network("ConvNet-D3", width=32, norm="batch", w_std=3**-0.5)

config = kip.Experiment(
    data=kip.Data("cifar10"),
    preprocess=kip.Preprocess("standardize"),
    method=kip.DWA(
        images_per_class=10,
        network=NETWORK,
        squeeze=kip.Squeeze(epochs=10),
        iterations=250,
        evaluation_network=NETWORK,
        protocol=dataclasses.replace(kip.PROTOCOLS["SRe2L"], epochs=200),
    ),
    checkpoint_every=2500,
    reference=kip.Reference("Du et al. 2024, CIFAR-10, 10 a class, ConvNet-D3", accuracy=0.45, spread=0.004),
)
