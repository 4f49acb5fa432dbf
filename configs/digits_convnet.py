"""The embedded digits (8x8), ConvNet kernel, 1 image a class, labels learned: the quick start.

Paper: no row; scikit-learn's digits are there so that a fresh machine has something real to distil.
Reached: DIGITS
Settings: chosen on validation (143 images) among eight of target batch, learning rate, steps and augmentation; of two
    with equal validation accuracy, the cheaper. Validation and test (359 images) have standard errors of 1 to 2 points.
Time: TIME
Command:

    kip distill digits_convnet
"""

import kip

config = kip.Experiment(
    data=kip.Data("digits"),
    preprocess=kip.Preprocess("standardize"),
    method=kip.KIP(
        images_per_class=1,
        learn_labels=True,
        kernels=(kip.Architecture("ConvNet"),),
        learning_rate=0.03,
        target_batch=200,
        steps=150,
    ),
    checkpoint_every=25,
)
