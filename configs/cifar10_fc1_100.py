"""CIFAR-10, FC1, 10 images a class, labels learned, 2000 steps.

kip distill cifar10_fc1_100
"""

import kip

config = kip.Experiment(
    data=kip.Data("cifar10"),
    preprocess=kip.Preprocess("standardize"),
    method=kip.KIP(
        images_per_class=10,
        learn_labels=True,
        kernels=(kip.Architecture("FC", 1),),
        learning_rate=0.04,
        target_batch=5000,
        steps=2000,
    ),
    reference=kip.Reference("Nguyen et al. 2021, Table 1, CIFAR-10, 10 a class, KIP FC", accuracy=0.531, spread=0.005),
)
