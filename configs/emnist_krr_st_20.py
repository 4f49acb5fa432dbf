"""EMNIST letters, KRR-ST, 20 images and their representations, on small networks: to pre-train networks for digits.

Paper: Lee et al. 2024; it distils CIFAR-100, TinyImageNet and ImageNet with ResNet-18 as teacher.
Command:

    kip distill emnist_krr_st_20
    kip pretraining runs/emnist_krr_st_20/distilled.npz --data mnist --how probe fine-tune --labelled 100
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
