"""MNIST, RCIG, 1 image a class, on small networks.

Paper: Loo et al. 2023, with networks of width 128.
Reached: not run to the end.
Command:

    kip distill mnist_rcig_10
"""

import kip

NETWORK = kip.Network("ConvNet-D3", width=16, norm="none", w_std=1.0, growth=2)

config = kip.Experiment(
    data=kip.Data("mnist"),
    preprocess=kip.Preprocess("standardize"),
    method=kip.RCIG(
        images_per_class=1,
        network=kip.Network("ConvNet-D3", width=16, norm="none", w_std=1.0, growth=2, activation="softplus"),
        evaluation_network=NETWORK,
        evaluation_optimizer=kip.Optimizer(learning_rate=1e-3, schedule="cosine"),
        evaluation_steps=500,
        steps=3000,
        target_batch=256,
        test_networks=5,
    ),
    checkpoint_every=300,
)
