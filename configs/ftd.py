"""Flat trajectory distillation, FTD (published rows)

Rows are named `DATA_IPC`, IPC images a class.

Expected: `reference` of each row, from Du et al. 2023.
None of these rows was run here: they are for an accelerator.

    kip distill ftd:cifar10_10

Reference: Du et al. 2023, "Minimizing the Accumulated Trajectory Error to Improve Dataset Distillation", Table 7.
"""

import kip
from kip.configs._matching import ZCA, row

ACCURACY = {  # percent, +-
    "cifar10_1": (46.8, 0.3),
    "cifar10_10": (66.6, 0.3),
    "cifar10_50": (73.8, 0.2),
}

SETTINGS = {  # student_steps, last_start, learning_rate, rate_learning_rate, balance, average
    "cifar10_1": (50, 2, 100.0, 1e-7, 0.3, 0.9999),
    "cifar10_10": (30, 20, 100.0, 1e-5, 0.3, 0.9995),
    "cifar10_50": (30, 40, 1000.0, 1e-5, 1.0, 0.999),
}


def _ftd(name: str) -> kip.FTD:
    steps, last, images, rate, balance, average = SETTINGS[name]
    return kip.FTD(
        images_per_class=int(name.rsplit("_", 1)[1]),
        experts=kip.Experts(sharpness=0.01, balance=balance),
        student_steps=steps,
        last_start=last,
        learning_rate=images,
        rate_learning_rate=rate,
        average=average,
    )


rows: dict[str, kip.Experiment] = {
    name: row(name, _ftd(name), ACCURACY, "Du et al. 2023, Table 1", preprocess=ZCA) for name in ACCURACY
}
