"""CIFAR-10, SRe2L, 100 images, recovered from and judged by narrow ConvNet-D3s.

Published: 27.2 +- 0.4 % on ResNet-18, as other papers report it, by a teacher's labels of every view; no figure of
ConvNet-D3.
Not run yet; `main_table:cifar10_sre2l_ipc10`, with 8 epochs of squeezing, was measured at 19.9 +- 2.7 % by a teacher's
labels of every view (SL+KD, a teacher of 10 epochs without augmentation) and at 19.7 +- 0.3 % by hard labels.
Meant for two CPU cores: ConvNet-D3 of a quarter of the width, 10 epochs of squeezing, 250 iterations.
Command:

    kip distill cifar10_sre2l_100
"""

import dataclasses

import kip

NETWORK = kip.Network("ConvNet-D3", width=32, norm="batch", w_std=3**-0.5)
SQUEEZE = kip.Squeeze(epochs=10)
PROTOCOL = dataclasses.replace(kip.PROTOCOLS["SRe2L"], epochs=200)

config = kip.Experiment(
    data=kip.Data("cifar10"),
    preprocess=kip.Preprocess("standardize"),
    method=kip.SRe2L(
        images_per_class=10,
        network=NETWORK,
        squeeze=SQUEEZE,
        iterations=250,
        evaluation_network=NETWORK,
        protocol=PROTOCOL,
    ),
    checkpoint_every=2500,
    reference=kip.Reference(
        "SRe2L, as other papers report it, CIFAR-10, 10 a class, ResNet-18", accuracy=0.272, spread=0.004
    ),
)
