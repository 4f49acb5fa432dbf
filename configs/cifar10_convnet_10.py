"""CIFAR-10, ConvNet kernel, ZCA, 1 image per class, labels learned: a row of Table A5, in three hours on two cores.

Paper: 64.7 +- 0.2 % (Table A5), with targets of 5000 images and up to 50 000 steps on hundreds of GPUs.
Reached: 58.83 % test from 18.91 % with natural images, validation 59.10 %, at step 4400; mean of the five checkpoints
    of lowest train loss 58.76 +- 0.15 %. The image of a cat became one for dogs: 1.9 % of cats are recognised. Of two
    rates, 300 steps at 0.03 and 0.1 gave 49.50 and 49.52 % (validation 46.6 and 46.2 %), and one between was taken.
Time: 4432 s for 4800 steps on 2 cores, beside other work of low priority, 1951 MiB; 0.8 s a step where little else ran.
Command:

    kip distill cifar10_convnet_10
"""

import kip

config = kip.Experiment(
    data=kip.Data("cifar10", validation=1000),
    preprocess=kip.Preprocess("zca"),
    method=kip.KIP(
        images_per_class=1,
        learn_labels=True,
        kernels=(kip.Architecture("ConvNet"),),
        learning_rate=0.05,
        schedule="cosine",
        target_batch=112,
        steps=4800,
    ),
    checkpoint_every=100,
    reference=kip.Reference("Nguyen et al. 2021, Table A5, CIFAR-10, 1 image per class, ZCA", 0.647, 0.002),
)
