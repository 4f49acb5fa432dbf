"""MNIST, FC1, 50 images a class, labels learned.

kip distill mnist_fc1_500
"""

import kip

config = kip.Experiment(
    data=kip.Data("mnist"),
    preprocess=kip.Preprocess("standardize"),
    method=kip.KIP(
        images_per_class=50,
        learn_labels=True,
        kernels=(kip.Architecture("FC", 1),),
        learning_rate=0.03,
        schedule="cosine",
        target_batch=1000,
        steps=8000,
    ),
    checkpoint_every=100,
    reference=kip.Reference("Nguyen et al. 2021, Table 1, MNIST, 50 a class, KIP FC", accuracy=0.984, spread=0.001),
)
