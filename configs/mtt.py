"""Matching training trajectories, MTT (published rows)

Rows are named `DATA_ipcN`, N images a class.
The steps, epochs, rates and batches are those that DC-BENCH lists as the author's, and so is ZCA: CIFAR-10 with 50
images a class and CIFAR-100 with 10 have none. MTT's own table has a pixel rate of 1e5 for CIFAR-10 with 10 images a
class, which its author calls a typo. Networks that judge a set are trained at its learned rate (protocol `MTT`).

Expected: `reference` of each row, from Cazenavette et al. 2022.
None of these rows was run here: they are for an accelerator. Smaller configurations: `cifar10_mtt_10`.

    kip distill mtt:cifar10_ipc10

References: Cazenavette et al. 2022, "Dataset Distillation by Matching Training Trajectories"; Cui et al. 2022,
"DC-BENCH: Dataset Condensation Benchmark", public code.
"""

import kip
from kip.configs._matching import ZCA, images_per_class, row

ACCURACY = {  # percent, +-
    "cifar10_ipc1": (46.2, 0.8),
    "cifar10_ipc10": (65.4, 0.7),
    "cifar10_ipc50": (71.6, 0.2),
    "cifar100_ipc1": (24.3, 0.3),
    "cifar100_ipc10": (39.7, 0.4),
    "cifar100_ipc50": (47.7, 0.2),
}

# student_steps, expert_epochs, last_start, student_batch, learning_rate, rate_learning_rate, student_rate, preprocess
SETTINGS = {
    "cifar10_ipc1": (50, 2, 2, None, 100.0, 1e-7, 0.01, ZCA),
    "cifar10_ipc10": (30, 2, 20, None, 100.0, 1e-5, 0.001, ZCA),
    "cifar10_ipc50": (30, 2, 40, None, 1000.0, 1e-5, 0.001, None),
    "cifar100_ipc1": (20, 3, 20, None, 1000.0, 1e-5, 0.01, ZCA),
    "cifar100_ipc10": (20, 2, 20, None, 1000.0, 1e-5, 0.01, None),
    "cifar100_ipc50": (80, 2, 40, 125, 1000.0, 1e-5, 0.01, ZCA),
}


def _mtt(name: str) -> kip.MTT:
    steps, epochs, last, batch, images, rate, student, _ = SETTINGS[name]
    return kip.MTT(
        images_per_class=images_per_class(name),
        student_steps=steps,
        expert_epochs=epochs,
        last_start=last,
        student_batch=batch,
        learning_rate=images,
        rate_learning_rate=rate,
        student_rate=student,
    )


rows: dict[str, kip.Experiment] = {
    name: row(name, _mtt(name), ACCURACY, "Cazenavette et al. 2022, Table 1", preprocess=SETTINGS[name][-1])
    for name in ACCURACY
}
