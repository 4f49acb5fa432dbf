"""CIFAR-10, FC1, Label Solve on 500 class-balanced natural images.

kip label-solve cifar10_fc1_500_label_solve
"""

import kip

config = kip.Experiment(
    data=kip.Data("cifar10"),
    preprocess=kip.Preprocess("standardize"),
    method=kip.LabelSolve(images_per_class=50, kernel=kip.Architecture("FC", 1)),
    reference=kip.Reference("the authors' public notebook, Label Solve on 500 natural images", accuracy=0.4699),
)
