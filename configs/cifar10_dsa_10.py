"""CIFAR-10, DSA (gradient matching), 1 image a class, on networks of half the width.

Paper: Zhao and Bilen 2021, Table 1: 28.8 +- 0.7 %, width 128, 256 natural images of each class in a step.
Reached: 29.50 +- 0.79 % over 5 networks, from 14.80 % of 10 natural images; validation 29.4 %.
Time: 463 s for the steps, and 2.5 GiB, on two CPU cores beside other work.
Command:

    kip distill cifar10_dsa_10
"""

import kip

NETWORK = kip.Network("ConvNet-D3", width=64, w_std=3**-0.5)

config = kip.Experiment(
    data=kip.Data("cifar10"),
    preprocess=kip.Preprocess("standardize"),
    method=kip.DSA(images_per_class=1, network=NETWORK, real_batch=64, steps=500),
    checkpoint_every=250,
    reference=kip.Reference("Zhao and Bilen 2021, Table 1, CIFAR-10, 1 a class, DSA", accuracy=0.288, spread=0.007),
)
