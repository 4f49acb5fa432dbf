"""CIFAR-10 averaged to 16x16, ConvNet kernel, ZCA, 10 images a class, labels fixed: a set to train networks on.

Paper: no row; at 32x32 Table A5 has such sets.
Command:

    kip distill cifar16_convnet_100
    kip transfer runs/cifar16_convnet_100 --baseline natural --width 32 --norm layer --loss xent
        --steps 400 --factors 1 2 4 --l2 0 1e-3
"""

import kip

config = kip.Experiment(
    data=kip.Data("cifar10", validation=500, shrink=2),
    preprocess=kip.Preprocess("zca"),
    method=kip.KIP(
        images_per_class=10,
        learn_labels=False,
        kernels=(kip.Architecture("ConvNet"),),
        learning_rate=0.06,
        schedule="cosine",
        target_batch=60,
        steps=40,
    ),
    checkpoint_every=10,
)
