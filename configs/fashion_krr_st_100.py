"""Fashion-MNIST, KRR-ST, 100 images and their representations, on small networks.

Paper: Lee et al. 2024; it distils CIFAR-100, TinyImageNet and ImageNet with ResNet-18 as teacher.
Reached: not run to its end. 0.25 s of a core for a step.
Command:

    kip distill fashion_krr_st_100
    kip pretraining runs/fashion_krr_st_100/distilled.npz --data mnist
"""

import kip

SGD = kip.Optimizer("sgd", 0.1, momentum=0.9, weight_decay=1e-3)

config = kip.Experiment(
    data=kip.Data("fashion_mnist"),
    preprocess=kip.Preprocess("standardize"),
    method=kip.KRRST(
        images=100,
        teacher=kip.Teacher(
            kip.Network("ConvNet-D3", width=16, norm="batch", growth=2), embedding=256, steps=600, batch=128
        ),
        network=kip.Network("ConvNet-D3", width=16, norm="batch", w_std=3**-0.5),
        pool=kip.Pool(max_updates=100, optimizer=SGD, loss="mean"),
        steps=1200,
        learning_rate=1e-2,
        target_batch=256,
        pretraining=SGD,
        pretraining_steps=500,
    ),
    checkpoint_every=200,
)
