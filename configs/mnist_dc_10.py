"""MNIST, DC (gradient matching), 1 image a class, on networks of half the width.

Paper: Zhao, Mopuri, Bilen 2021, Table 1: 91.7 +- 0.5 %, width 128, 256 natural images of each class in a step.
Reached: 90.72 +- 0.46 % test over 5 fresh networks, from noise, validation 90.80 %, at step 1000, the last; 87.0 % on
    validation after 250 steps. Width 64, and 64 natural images of each class in a step.
Time: 1415 s for the steps and the checkpoints' networks on 2 cores that were shared with other work.
Command:

    kip distill mnist_dc_10
"""

import kip

NETWORK = kip.Network("ConvNet-D3", width=64, w_std=3**-0.5)

config = kip.Experiment(
    data=kip.Data("mnist"),
    preprocess=kip.Preprocess("standardize"),
    method=kip.DC(images_per_class=1, network=NETWORK, real_batch=64, steps=1000, protocol=kip.PROTOCOLS["DC-MNIST"]),
    checkpoint_every=250,
    reference=kip.Reference("Zhao, Mopuri, Bilen 2021, Table 1, MNIST, 1 a class, DC", accuracy=0.917, spread=0.005),
)
