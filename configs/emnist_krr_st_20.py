"""EMNIST letters, KRR-ST, 20 images and their representations, on small networks: to pre-train networks for digits.

Paper: Lee et al. 2024; it distils CIFAR-100, TinyImageNet and ImageNet with ResNet-18 as teacher.
Reached, on MNIST's test, three networks each: pre-trained on the set; on 20 random images with the teacher's
    representations; on 20 random images with their classes; on nothing:

        probe, 100 labels                    87.27 +- 2.20    85.11 +- 3.49    84.25 +- 2.12    82.15 +- 3.01 %
        fine-tuning, 100 labels, 300 steps   79.89 +- 3.28    77.97 +- 3.48    77.96 +- 2.77    77.04 +- 3.59 %
        probe, 1000 labels (an earlier run)  96.02 +- 0.11    95.78 +- 0.32    95.19 +- 0.22    94.96 +- 0.31 %

    Each seed has its own labelled images, which all starts share, and most of the deviation is theirs: probes on the
    learned set are above those on random images for each of the three seeds.

    Probes on letters themselves do not change: 80.80 +- 0.42 % after learning, 80.10 % before.
    Networks without normalisation: with batch normalisation, whose running statistics are those of the 20 images, the
    same learning made probes no better (84.4 +- 0.6 against 84.0 +- 1.8 % of random images), nor did instance
    normalisation. Network, rates and steps were chosen on MNIST's validation images.
Time: 292 s for the steps on 2 cores that were shared with other work.
Command:

    kip distill emnist_krr_st_20
    START="distilled random random-classes none"
    kip pretraining runs/emnist_krr_st_20 --data mnist --labelled 100 --how probe fine-tune --steps 300 --starts $START
    kip pretraining runs/emnist_krr_st_20 --data mnist --labelled 1000 --starts $START
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
            embedding=256,
            steps=600,
            batch=128,
            pad=3,
            flip=False,
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
)
