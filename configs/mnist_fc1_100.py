"""MNIST, FC1, 10 images a class, labels learned.

kip distill mnist_fc1_100
"""

import kip

config = kip.Experiment(
    data=kip.Data("mnist"),
    preprocess=kip.Preprocess("standardize"),
    method=kip.KIP(
        images_per_class=10,
        learn_labels=True,
        kernels=(kip.Architecture("FC", 1),),
        learning_rate=0.02,
        schedule="cosine",
        target_batch=5000,
        steps=5000,
    ),
    reference=kip.Reference("Nguyen et al. 2021, Table 1, MNIST, 10 a class, KIP FC", accuracy=0.972, spread=0.002),
)
