"""MNIST, 28x28, ConvNet kernel, 1 image a class, labels learned: Table 1's first row, as far as two cores go.

Paper: 97.3 +- 0.1 % (Table 1), with targets of 5000 images and up to 50 000 steps.
Command:

    kip distill mnist_convnet_10
"""

import kip

config = kip.Experiment(
    data=kip.Data("mnist", validation=1000),
    preprocess=kip.Preprocess("standardize"),
    method=kip.KIP(
        images_per_class=1,
        learn_labels=True,
        kernels=(kip.Architecture("ConvNet"),),
        learning_rate=0.06,
        schedule="cosine",
        target_batch=100,
        steps=250,
    ),
    checkpoint_every=125,
)
