"""placeholder"""

import kip

SCHEMES = {"dense": kip.Training(), "ridge": kip.Training(head="ridge")}
SMOOTHING = {"true": 0.0, "smoothed": 0.1}

rows = {
    f"{head}_{labels}": kip.Experiment(
        data=kip.Data("mnist", validation=10000),
        preprocess=kip.Preprocess("standardize"),
        method=kip.LabelBaseline(
            images_per_class=10, smoothing=smoothing, training=training, steps=6, stride=100, validation_networks=2
        ),
        checkpoint_every=1,
    )
    for head, training in SCHEMES.items()
    for labels, smoothing in SMOOTHING.items()
}
