"""MNIST averaged to 14x14, ConvNet kernel, 1 image a class, labels learned by cross-entropy: KIP, in three minutes.

Paper: no row; at 28x28 Table 1 has 97.3 +- 0.1 %.
Reached: 96.37 % test from 43.36 %, validation 96.70 %, at step 1200; mean of the five checkpoints of lowest train loss
    96.02 +- 0.51 %. The paper's squared error (`--method.loss squared`) gave 94.09 %, validation 94.50 %; longer runs,
    other rates and ZCA lowered that loss and not the error. The loss was chosen on validation.
Time: 184 s for 1500 steps on 2 cores, 667 MiB.
Command:

    kip distill mnist14_convnet_10
"""

import kip

config = kip.Experiment(
    data=kip.Data("mnist", validation=1000, shrink=2),
    preprocess=kip.Preprocess("standardize"),
    method=kip.KIP(
        images_per_class=1,
        learn_labels=True,
        kernels=(kip.Architecture("ConvNet"),),
        loss="platt",
        learning_rate=0.03,
        schedule="cosine",
        target_batch=112,
        steps=1500,
    ),
    checkpoint_every=100,
)
