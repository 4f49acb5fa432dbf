"""placeholder"""

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
        network=kip.Network("ConvNet-D3", width=16, norm="batch"),
        pool=kip.Pool(max_updates=100, optimizer=SGD, loss="mean"),
        steps=1200,
        learning_rate=1e-2,
        target_batch=256,
        pretraining=SGD,
        pretraining_steps=500,
    ),
    checkpoint_every=200,
)
