"""MNIST, 28x28, ConvNet kernel, 1 image a class, labels learned: Table 1's first row, as far as two cores go.

Paper: 97.3 +- 0.1 % (Table 1), with targets of 5000 images and up to 50 000 steps.
Reached: not run at this length yet. 600 steps at a rate of 0.15: 91.13 % test from 46.18 % with natural images,
    validation 92.5 %; mean of five checkpoints 90.31 +- 0.84 %. 250 steps of 100 targets at a rate of 0.06: 90.60 %.
Time: 2083 s for the 600 steps on 2 cores that other work kept busy, before the kernel's form for CPUs.
Command:

    kip distill mnist_convnet_10
"""

import kip

config = kip.Experiment(
    data=kip.Data("mnist", validation=1000),
    preprocess=kip.Preprocess("standardize"),
    method=kip.KIP(
        images_per_class=1,
        learn_labels=True,
        kernels=(kip.Architecture("ConvNet"),),
        learning_rate=0.03,
        schedule="cosine",
        target_batch=96,
        steps=2400,
    ),
    checkpoint_every=100,
    reference=kip.Reference("Nguyen et al. 2021, Table 1, MNIST, 1 image a class, ConvNet", 0.973, 0.001),
)
