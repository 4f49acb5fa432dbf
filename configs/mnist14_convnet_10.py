"""MNIST averaged to 14x14, ConvNet kernel, 1 image a class, labels learned: KIP as the paper has it, in minutes.

Paper: no row; at 28x28 Table 1 has 97.3 +- 0.1 %.
Command:

    kip distill mnist14_convnet_10
"""

import kip

config = kip.Experiment(
    data=kip.Data("mnist", validation=1000, shrink=2),
    preprocess=kip.Preprocess("standardize"),
    method=kip.KIP(
        images_per_class=1,
        learn_labels=True,
        kernels=(kip.Architecture("ConvNet"),),
        learning_rate=0.04,
        schedule="cosine",
        target_batch=200,
        steps=250,
    ),
    checkpoint_every=50,
)
