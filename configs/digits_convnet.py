"""The embedded digits (8x8), ConvNet kernel, 1 image a class, labels learned: the quick start.

No published row: scikit-learn's digits are there so that a fresh machine has something real to distil.

    kip distill digits_convnet
"""

import kip

config = kip.Experiment(
    data=kip.Data("digits"),
    preprocess=kip.Preprocess("standardize"),
    method=kip.KIP(
        images_per_class=1,
        learn_labels=True,
        kernels=(kip.Architecture("ConvNet"),),
        learning_rate=0.04,
        target_batch=100,
        steps=50,
    ),
    checkpoint_every=10,
)
