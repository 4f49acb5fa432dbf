"""CIFAR-10, MTT (trajectory matching), 1 image a class, few and short experts of a quarter of the width.

Paper: Cazenavette et al. 2022, Table 1: 46.2 +- 0.8 %, ZCA, 100 experts of 50 epochs, width 128.
Reached: 29.21 +- 1.36 % over 5 networks, from 14.00 % of 10 random natural images; validation 30.5 % at step 1000, from
    15.9 %. The matching loss falls from 0.97 to between 0.45 and 0.70, as a step's expert and epoch have it.
    Beside DM, five networks of width 32 each under the protocol DSA (`kip compare`): 29.7 +- 1.9 %, `cifar10_dm_10`
    25.3 +- 0.5 %, random images 14.5 +- 0.4 %.
Time: 736 s for the steps after 20 min for the experts, and 2.5 GiB, on two CPU cores beside other work.
Command:

    kip distill cifar10_mtt_10
"""

import kip

NETWORK = kip.Network("ConvNet-D3", width=32, w_std=3**-0.5)
EXPERTS = kip.Experts(count=2, epochs=8)

config = kip.Experiment(
    data=kip.Data("cifar10"),
    preprocess=kip.Preprocess("standardize"),
    method=kip.MTT(
        images_per_class=1,
        network=NETWORK,
        experts=EXPERTS,
        expert_epochs=2,
        last_start=4,
        student_steps=20,
        steps=1000,
        learning_rate=100.0,
        student_rate=0.02,
        rate_learning_rate=1e-6,
    ),
    checkpoint_every=250,
    reference=kip.Reference("Cazenavette et al. 2022, Table 1, CIFAR-10, 1 a class, MTT", accuracy=0.462, spread=0.008),
)
