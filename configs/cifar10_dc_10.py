"""CIFAR-10, DC (gradient matching), 1 image a class, on networks of half the width.

Paper: Zhao, Mopuri, Bilen 2021, Table 1: 28.3 +- 0.5 %, width 128, 256 natural images of each class in a step.
Reached: 27.58 +- 0.33 % over 5 networks, from noise; the checkpoint of step 250 of 500.
Time: 573 s for the steps, and 2.5 GiB, on two CPU cores beside other work.
Command:

    kip distill cifar10_dc_10
"""

import kip

NETWORK = kip.Network("ConvNet-D3", width=64, w_std=3**-0.5)

config = kip.Experiment(
    data=kip.Data("cifar10"),
    preprocess=kip.Preprocess("standardize"),
    method=kip.DC(images_per_class=1, network=NETWORK, real_batch=64, steps=500),
    checkpoint_every=250,
    reference=kip.Reference("Zhao, Mopuri, Bilen 2021, Table 1, CIFAR-10, 1 a class, DC", accuracy=0.283, spread=0.005),
)
