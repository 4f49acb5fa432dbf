"""CIFAR-10, RCIG, ZCA, 1 image a class, on small networks.

Paper: 53.9 % (Loo et al. 2023), by networks of width 128 and 15 000 steps of 1024 targets.
Reached: 41.86 +- 0.86 % over five networks on all test images, by the set of step 1200, the best on validation (41.2 %
    there; 37.5 after 450 steps), learned and judged with networks of width 32.
Time: 3 s a step on one core that had nothing else to do; 77 minutes beside other work.
Command:

    kip distill cifar10_rcig_10

The rate of the pool is the public code's 5e-5 times 128 / 32, as the outputs of a network change with an update of Adam
in proportion to its width.
"""

import kip

WIDTH = 32
NETWORK = kip.Network("ConvNet-D3", width=WIDTH, norm="none", w_std=1.0, growth=2)

config = kip.Experiment(
    data=kip.Data("cifar10"),
    preprocess=kip.Preprocess("zca_frepo"),
    method=kip.RCIG(
        images_per_class=1,
        network=kip.Network("ConvNet-D3", width=WIDTH, norm="none", w_std=1.0, growth=2, activation="softplus"),
        pool=kip.Pool(30, optimizer=kip.Optimizer(learning_rate=2e-4), loss="mean"),
        evaluation_network=NETWORK,
        evaluation_optimizer=kip.Optimizer(learning_rate=5e-4, schedule="rise_cosine"),
        steps=1200,
        target_batch=256,
        test_networks=5,
    ),
    checkpoint_every=150,
    reference=kip.Reference("Loo et al. 2023, CIFAR-10, 1 image per class, ZCA, width 128", 0.539),
)
