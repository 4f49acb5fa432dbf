"""EMNIST letters, KRR-ST, 20 images and their representations, on small networks: to pre-train networks for digits.

Paper: Lee et al. 2024; it distils CIFAR-100, TinyImageNet and ImageNet with ResNet-18 as teacher.
Reached: on MNIST with 100 labelled images, three networks each: probes 84.40 +- 0.64 % (83.99, 84.06, 85.14) after
    pre-training on the set, 84.02 +- 1.77 % (84.84, 85.23, 81.99) on 20 random images with the teacher's
    representations, 78.16 +- 2.77 % (78.60, 75.19, 80.68) on nothing; fine-tuning, 300 updates, 89.33 +- 1.20,
    89.09 +- 0.18, 90.06 +- 1.50 %. Better than nothing for probes, and not to be told from random images. Probes on
    letters: 74.89 %, and 75.58 % at step 0. With 5 images learning made probes worse.
Time: 568 s for the steps on 2 cores that were shared with other work.
Command:

    kip distill emnist_krr_st_20
    kip pretraining runs/emnist_krr_st_20 --data mnist --how probe fine-tune --labelled 100 --steps 300
"""

import kip

SGD = kip.Optimizer("sgd", 1.0, momentum=0.9, weight_decay=1e-3)

config = kip.Experiment(
    data=kip.Data("emnist_letters"),
    preprocess=kip.Preprocess("standardize"),
    method=kip.KRRST(
        images=20,
        teacher=kip.Teacher(
            kip.Network("ConvNet-D3", width=16, norm="batch", growth=2),
            embedding=256, steps=600, batch=128, pad=3, flip=False,
        ),
        network=kip.Network("ConvNet-D3", width=16, norm="batch", w_std=3**-0.5),
        pool=kip.Pool(max_updates=300, optimizer=SGD, loss="mean"),
        steps=3000,
        learning_rate=3e-3,
        target_batch=512,
        pretraining=SGD,
        pretraining_steps=300,
    ),
    checkpoint_every=250,
)  # fmt: skip
