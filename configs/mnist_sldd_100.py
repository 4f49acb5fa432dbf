"""MNIST, SLDD (images and rates learned through the whole training), 100 images, random initial values.

Paper: as reported by Bohdal et al. 2020, Table 7: 82.7 +- 2.8 %.
Reached: 79.35 +- 2.63 % over 20 fresh networks, from noise; validation 78.2 %. With one network in a step in place
    of three: 76.91 +- 5.27 % after 3200 steps (`--method.networks 1 --method.steps 3200 --method.halve-every 800`).
Time: 2662 s for the steps, and 1.1 GiB, on two CPU cores that the tests kept busy.
Command:

    kip distill mnist_sldd_100
"""

import kip

config = kip.Experiment(
    data=kip.Data("mnist"),
    preprocess=kip.Preprocess("standardize"),
    method=kip.DD(
        images_per_class=10,
        target_batch=256,
        networks=3,
        steps=1600,
        learning_rate=0.02,
        halve_every=400,
        learn_labels=True,
    ),
    checkpoint_every=500,
    reference=kip.Reference("Bohdal et al. 2020, Table 7, MNIST, SLDD", accuracy=0.827, spread=0.028),
)
