"""CIFAR-10, DM (distribution matching), 1 image a class.

Paper: Zhao and Bilen 2023, Table 1: 26.0 +- 0.8 %, 20 000 steps, 256 natural images of each class in a step.
Reached: 26.27 +- 0.51 % over 5 networks, from 14.85 % of 10 random natural images; validation 26.7 % at step 250 and
    26.2 % at step 500.
Time: 800 s for 500 steps, and 2.5 GiB, on two CPU cores beside other work.
Command:

    kip distill cifar10_dm_10
"""

import kip

config = kip.Experiment(
    data=kip.Data("cifar10"),
    preprocess=kip.Preprocess("standardize"),
    method=kip.DM(images_per_class=1, real_batch=64, steps=500),
    checkpoint_every=250,
    reference=kip.Reference("Zhao and Bilen 2023, Table 1, CIFAR-10, 1 a class, DM", accuracy=0.26, spread=0.008),
)
