"""MNIST, FRePo, 10 images a class, on a small network.

Paper: Zhou et al. 2022, with 500 000 steps on networks of width 128.
Reached: not run to its end. 0.2 s of a core for a step.
Command:

    kip distill mnist_frepo_100
"""

import kip

NETWORK = kip.Network("ConvNet-D3", width=16, norm="none", w_std=1.0, growth=2)

config = kip.Experiment(
    data=kip.Data("mnist"),
    preprocess=kip.Preprocess("standardize"),
    method=kip.FRePo(
        images_per_class=10,
        network=NETWORK,
        evaluation_network=NETWORK,
        steps=1500,
        learning_rate=0.02,
        target_batch=512,
        evaluation_steps=500,
        test_networks=3,
    ),
    checkpoint_every=150,
)
