"""Flat trajectory distillation, FTD (published rows)

Rows are named `DATA_ipcN`, N images a class.

Expected: `reference` of each row, from Du et al. 2023.
None of these rows was run here: they are for an accelerator.

    kip distill ftd:cifar10_ipc10

Reference: Du et al. 2023, "Minimizing the Accumulated Trajectory Error to Improve Dataset Distillation", Table 7.
"""

import kip
from kip.configs._matching import ZCA, images_per_class, row

ACCURACY = {  # percent, +-
    "cifar10_ipc1": (46.8, 0.3),
    "cifar10_ipc10": (66.6, 0.3),
    "cifar10_ipc50": (73.8, 0.2),
}

SETTINGS = {  # student_steps, last_start, learning_rate, rate_learning_rate, balance, average
    "cifar10_ipc1": (50, 2, 100.0, 1e-7, 0.3, 0.9999),
    "cifar10_ipc10": (30, 20, 100.0, 1e-5, 0.3, 0.9995),
    "cifar10_ipc50": (30, 40, 1000.0, 1e-5, 1.0, 0.999),
}


def _ftd(name: str) -> kip.FTD:
    steps, last, images, rate, balance, average = SETTINGS[name]
    return kip.FTD(
        images_per_class=images_per_class(name),
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
