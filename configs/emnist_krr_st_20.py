"""EMNIST letters, KRR-ST, 20 images and their representations, on small networks: to pre-train networks for digits.

Paper: Lee et al. 2024; it distils CIFAR-100, TinyImageNet and ImageNet with ResNet-18 as teacher.
Reached, on MNIST's test, three networks each: pre-trained on the set; on 20 random images with the teacher's
    representations; on 20 random images with their classes; on nothing:

        probe, 100 labels                    88.30 +- 0.73    85.95 +- 1.81    85.84 +- 0.82    82.94 +- 0.88 %
        probe, 1000 labels                   96.02 +- 0.11    95.78 +- 0.32    95.19 +- 0.22    94.96 +- 0.31 %
        fine-tuning, 100 labels, 300 steps   81.03 +- 2.09    78.79 +- 1.14    77.15 +- 2.06    74.57 +- 1.69 %

    Probes on letters themselves do not change: 80.42 % after learning, 80.56 % before.
    Networks without normalisation: with batch normalisation, whose running statistics are those of the 20 images, the
    same learning made probes no better (84.4 +- 0.6 against 84.0 +- 1.8 % of random images), nor did instance
    normalisation. Network, rates and steps were chosen on MNIST's validation images.
Time: 459 s for the steps on 2 cores that were shared with other work.
Command:

    kip distill emnist_krr_st_20
    START="distilled random random-classes none"
    kip pretraining runs/emnist_krr_st_20 --data mnist --labelled 100 --how probe fine-tune --steps 300 --start $START
    kip pretraining runs/emnist_krr_st_20 --data mnist --labelled 1000 --start $START
"""

import kip

ADAM = kip.Optimizer("adam", 1e-3)

config = kip.Experiment(
    data=kip.Data("emnist_letters"),
    preprocess=kip.Preprocess("standardize"),
    method=kip.KRRST(
        images=20,
        teacher=kip.Teacher(
            kip.Network("ConvNet-D3", width=16, norm="batch", growth=2),
            embedding=256, steps=600, batch=128, pad=3, flip=False,
        ),
        network=kip.Network("ConvNet-D3", width=16, norm="none", w_std=1.0, growth=2),
        pool=kip.Pool(max_updates=300, optimizer=ADAM, loss="mean"),
        steps=2000,
        learning_rate=1e-2,
        target_batch=256,
        pretraining=ADAM,
        pretraining_steps=300,
        validation_networks=3,
    ),
    checkpoint_every=250,
)  # fmt: skip
