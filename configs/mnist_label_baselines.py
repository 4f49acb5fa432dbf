"""MNIST, 100 images with true or smoothed labels: the baselines of label distillation, under each of its two heads.

The number of training steps, a multiple of 100 up to 600, is chosen on validation images; the paper tries 1000.
Paper: Bohdal et al. 2020, Table 7 (base examples optimised): true 84.86 +- 1.16, smoothed 86.98 +- 0.99, ridge head
    true 84.70 +- 0.81, smoothed 85.63 +- 0.95 %.
Reached, over 20 networks: dense_true 82.20 +- 1.55 % (validation 81.05 %, 300 steps), dense_smoothed 85.43 +- 0.89 %
    (validation 84.05 %), ridge_true 82.05 +- 1.09 % (validation 81.16 %, 100 steps), ridge_smoothed 83.52 +- 0.87 %
    (validation 82.55 %, 400 steps).
Command:

    kip distill mnist_label_baselines:dense_true
"""

import kip

SCHEMES = {"dense": kip.Training(), "ridge": kip.Training(head="ridge")}
SMOOTHING = {"true": 0.0, "smoothed": 0.1}

rows = {
    f"{head}_{labels}": kip.Experiment(
        data=kip.Data("mnist", validation=10000),
        preprocess=kip.Preprocess("standardize"),
        method=kip.LabelBaseline(
            images_per_class=10, smoothing=smoothing, training=training, steps=6, stride=100, validation_networks=2
        ),
        checkpoint_every=1,
    )
    for head, training in SCHEMES.items()
    for labels, smoothing in SMOOTHING.items()
}
