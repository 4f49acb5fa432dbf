"""placeholder"""

import kip

NETWORK = kip.Network("ConvNet-D3", width=16, norm="none", growth=2)

config = kip.Experiment(
    data=kip.Data("mnist"),
    preprocess=kip.Preprocess("standardize"),
    method=kip.FRePo(
        images_per_class=10,
        network=NETWORK,
        evaluation_network=NETWORK,
        steps=1500,
        learning_rate=0.02,
        target_batch=512,
        evaluation_steps=500,
        test_networks=3,
    ),
    checkpoint_every=150,
)
