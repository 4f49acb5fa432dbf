import kip

config = kip.Experiment(
    data=kip.Data("mnist", validation=10000),
    preprocess=kip.Preprocess("standardize"),
    method=kip.LD(
        images_per_class=10,
        training=kip.Training(head="ridge"),
        target_batch=256,
        learning_rate=4e-3,
        steps=2000,
    ),
    checkpoint_every=200,
    reference=kip.Reference("Bohdal et al. 2020, Table 5, MNIST (LD RR), trial 1", accuracy=0.8785, spread=0.0043),
)
