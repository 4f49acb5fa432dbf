"""MNIST averaged to 14x14, ConvNet kernel, 10 images a class, labels fixed: a set to train networks on.

Paper: no row; at 28x28 Table A3 has sets with fixed labels, which train networks better than those with learned ones.
Command:

    kip distill mnist14_convnet_100
    kip transfer runs/mnist14_convnet_100 --width 64 --baseline natural
"""

import kip

config = kip.Experiment(
    data=kip.Data("mnist", validation=500, shrink=2),
    preprocess=kip.Preprocess("standardize"),
    method=kip.KIP(
        images_per_class=10,
        learn_labels=False,
        kernels=(kip.Architecture("ConvNet"),),
        learning_rate=0.06,
        schedule="cosine",
        target_batch=60,
        steps=100,
    ),
    checkpoint_every=20,
)
