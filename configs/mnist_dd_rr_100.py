"""MNIST, 100 learned images with fixed labels: image distillation by LD's ridge regression (DD RR).

Paper: Bohdal et al. 2020, Table 17, DD RR: 36.43 +- 5.50 %, which they call neither strong nor stable.
Reached: 84.53 +- 1.13 % test over 20 fresh networks, validation 84.31 %, at step 200 of 2000, where it is best;
    from there it falls to 34.75 % on validation at step 2000. 9.80 % at step 0.
Time: 181 s for the steps on 2 cores that other work kept busy.
Shorter than the paper, as `mnist_ld_rr_100`.
Command:

    kip distill mnist_dd_rr_100
"""

import kip

config = kip.Experiment(
    data=kip.Data("mnist", validation=10000),
    preprocess=kip.Preprocess("standardize"),
    method=kip.LD(
        images_per_class=10,
        learn="images",
        training=kip.Training(head="ridge"),
        target_batch=256,
        learning_rate=0.02,
        steps=2000,
    ),
    checkpoint_every=200,
    reference=kip.Reference("Bohdal et al. 2020, Table 17, MNIST (DD RR)", accuracy=0.3643, spread=0.0550),
)
