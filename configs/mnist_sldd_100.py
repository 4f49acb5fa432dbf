"""MNIST, SLDD (images and rates learned through the whole training), 100 images, random initial values.

Paper: as reported by Bohdal et al. 2020, Table 7: 82.7 +- 2.8 %.
Reached: not run yet.
Command:

    kip distill mnist_sldd_100
"""

import kip

config = kip.Experiment(
    data=kip.Data("mnist"),
    preprocess=kip.Preprocess("standardize"),
    method=kip.DD(
        images_per_class=10, target_batch=256, steps=3200, learning_rate=0.02, halve_every=800, learn_labels=True
    ),
    checkpoint_every=500,
    reference=kip.Reference("Bohdal et al. 2020, Table 7, MNIST, SLDD", accuracy=0.827, spread=0.028),
)
