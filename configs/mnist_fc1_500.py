"""MNIST, FC1, 50 images a class, labels learned, 8000 steps of 1000 targets.

Paper: Table 1, KIP FC, 98.4 +- 0.1 %, with up to 50 000 steps of 5000 targets.
Reached: 97.65 % test from 89.16 %, validation 97.92 %; the paper's report 97.6 +- 0.0 %. With 2000 steps of 5000
    targets, learning rate 0.02, cosine: validation 97.78 %, at 98.7 % on the batch. A run as long as the paper's was
    not tried. Label Solve on the images of that second run did not raise validation: the labels are not what is
    missing.
Time: 961 s on 2 cores that were shared with other work.
Command:

    kip distill mnist_fc1_500
"""

import kip

config = kip.Experiment(
    data=kip.Data("mnist"),
    preprocess=kip.Preprocess("standardize"),
    method=kip.KIP(
        images_per_class=50,
        learn_labels=True,
        kernels=(kip.Architecture("FC", 1),),
        learning_rate=0.03,
        schedule="cosine",
        target_batch=1000,
        steps=8000,
    ),
    checkpoint_every=100,
    reference=kip.Reference("Nguyen et al. 2021, Table 1, MNIST, 50 a class, KIP FC", accuracy=0.984, spread=0.001),
)
