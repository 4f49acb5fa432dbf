"""Difficulty-aligned trajectory matching, DATM (published rows)

Rows are named `DATA_ipcN`, N images a class.

Expected: `reference` of each row, from Guo et al. 2024.
None of these rows was run here: they are for an accelerator. Smaller configurations: `cifar10_datm_10`.

    kip distill datm:cifar10_ipc10

Reference: Guo et al. 2024, "Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching".
"""

import kip
from kip.configs._matching import ZCA, images_per_class, row

ACCURACY = {  # percent, +-
    "cifar10_ipc1": (46.9, 0.5),
    "cifar10_ipc10": (66.8, 0.2),
    "cifar10_ipc50": (76.1, 0.3),
}

# student_batch, learning_rate, label_learning_rate, threshold, start_before, last_start, window_steps, rate
SETTINGS = {
    "cifar10_ipc1": (10, 100.0, 5.0, 1.1, None, 4, 1000, 1e-7),
    "cifar10_ipc10": (100, 100.0, 2.0, 1.0, 10, 20, 1000, 1e-5),
    "cifar10_ipc50": (500, 1000.0, 2.0, 1.0, 20, 40, 2000, 1e-5),
}


def _datm(name: str) -> kip.DATM:
    batch, images, labels, threshold, before, last, window, rate = SETTINGS[name]
    return kip.DATM(
        images_per_class=images_per_class(name),
        student_batch=batch,
        learning_rate=images,
        label_learning_rate=labels,
        threshold=threshold,
        start_before=before,
        last_start=last,
        window_steps=window,
        rate_learning_rate=rate,
    )


rows: dict[str, kip.Experiment] = {
    name: row(name, _datm(name), ACCURACY, "Guo et al. 2024, Table 1", preprocess=ZCA) for name in ACCURACY
}
