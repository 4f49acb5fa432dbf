"""Matching training trajectories, MTT (published rows)

Rows are named `DATA_IPC`, IPC images a class.
The steps, epochs and rates of CIFAR-100 with 1 image a class are the public script's. Those of the other rows follow
what is published for FTD and TESLA where it is, and are choices made here where it is not.

Expected: `reference` of each row, from Cazenavette et al. 2022.
None of these rows was run here: they are for an accelerator. Smaller configurations: `cifar10_mtt_10`.

    kip distill mtt:cifar10_10

Reference: Cazenavette et al. 2022, "Dataset Distillation by Matching Training Trajectories".
"""

import kip
from kip.configs._matching import ZCA, row

ACCURACY = {  # percent, +-
    "cifar10_1": (46.2, 0.8),
    "cifar10_10": (65.4, 0.7),
    "cifar10_50": (71.6, 0.2),
    "cifar100_1": (24.3, 0.3),
    "cifar100_10": (39.7, 0.4),
    "cifar100_50": (47.7, 0.2),
}

SETTINGS = {  # student_steps, expert_epochs, last_start, student_batch, learning_rate, rate_learning_rate
    "cifar10_1": (50, 2, 2, None, 100.0, 1e-7),
    "cifar10_10": (30, 2, 20, None, 100.0, 1e-5),
    "cifar10_50": (30, 2, 40, 250, 1000.0, 1e-5),
    "cifar100_1": (20, 3, 20, None, 1000.0, 1e-5),
    "cifar100_10": (20, 2, 20, 250, 1000.0, 1e-5),
    "cifar100_50": (50, 2, 40, 250, 1000.0, 1e-5),
}


def _mtt(name: str) -> kip.MTT:
    steps, epochs, last, batch, images, rate = SETTINGS[name]
    return kip.MTT(
        images_per_class=int(name.rsplit("_", 1)[1]),
        student_steps=steps,
        expert_epochs=epochs,
        last_start=last,
        student_batch=batch,
        learning_rate=images,
        rate_learning_rate=rate,
    )


rows: dict[str, kip.Experiment] = {
    name: row(name, _mtt(name), ACCURACY, "Cazenavette et al. 2022, Table 1", preprocess=ZCA) for name in ACCURACY
}
