"""MNIST, RCIG, 1 image a class, on small networks.

Paper: Loo et al. 2023, with networks of width 128.
Reached: not run to its end.
Command:

    kip distill mnist_rcig_10
"""

import kip

WIDTH = 32
NETWORK = kip.Network("ConvNet-D3", width=WIDTH, norm="none", w_std=1.0, growth=2)

config = kip.Experiment(
    data=kip.Data("mnist"),
    preprocess=kip.Preprocess("standardize"),
    method=kip.RCIG(
        images_per_class=1,
        network=kip.Network("ConvNet-D3", width=WIDTH, norm="none", w_std=1.0, growth=2, activation="softplus"),
        pool=kip.Pool(30, optimizer=kip.Optimizer(learning_rate=2e-4), loss="mean"),
        evaluation_network=NETWORK,
        evaluation_optimizer=kip.Optimizer(learning_rate=5e-4, schedule="rise_cosine"),
        steps=500,
        target_batch=256,
        test_networks=5,
    ),
    checkpoint_every=100,
)
