"""MNIST, 100 learned images with fixed labels: image distillation by LD's second-order gradient (DD).

Paper: Bohdal et al. 2020, Table 17, DD: 34.44 +- 6.15 %, which they call neither strong nor stable.
Reached: not run.
Shorter than the paper, as `mnist_ld_100`.
Command:

    kip distill mnist_dd_100
"""

import kip

config = kip.Experiment(
    data=kip.Data("mnist", validation=10000),
    preprocess=kip.Preprocess("standardize"),
    method=kip.LD(
        images_per_class=10,
        learn="images",
        target_batch=128,
        learning_rate=0.02,
        steps=2000,
    ),
    checkpoint_every=200,
    reference=kip.Reference("Bohdal et al. 2020, Table 17, MNIST (DD)", accuracy=0.3444, spread=0.0615),
)
