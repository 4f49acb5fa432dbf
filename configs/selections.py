"""CIFAR-10, 10 images a class: every rule by which natural images are chosen, for two CPU cores

Rows are named `cifar10_RULE`. Rules:

- `medoids`, `facility_location`, `graph_cut`, `craig`: by where images are in the features of a network that learned
  the train set; `glister`: by its gradients, for the loss of all classes, and `glister_class`: for that of each class.
- `kernel_k_centers`, `kernel_herding`, `determinantal`: by where images are under the NTK of a fully connected network,
  of 500 images of each class.
- `aum`, `el2n_sl`, `grand`, `entropy`, `least_confidence`, `margin`: the images that are easiest by the score, as
  networks learn; `dyn_unc`: the hardest, as published. The teacher of `el2n_sl` is a second network of as many epochs.
- `cal`: the highest divergence from neighbours, as its authors choose; `cal_deepcore`: the lowest, as DeepCore does.
- `dual`, `ccs`, `d2`: the published choices by these scores. `d2` has the setting that its public code gives for 10 %
  kept, the nearest to these 0.2 %: the hardest 40 % by AUM are dropped first, 5 neighbours, gamma 0.1.
- `cad_epoch_4` is not CAD-Prune, which is not defined at this size: its K, of which K N = epochs |S|, is 0.67 epochs,
  and two windows of two epochs need 4. The row has the score with 4 in place of K, of networks that train for exactly
  4 epochs by the recipe of HL.

The recording is that of `coresets`, which has random images, herding, K-centers, leverage scores, EL2N and forgetting.
Its 8 epochs are fewer than the papers', so that windows are of 4 epochs. What the rows reach stands in
`docs/main_table.md`.

    kip distill selections:cifar10_facility_location

Reference: Guo et al. 2022, "DeepCore"; `kip.methods.selection` has the source of each rule.
"""

import kip
from kip.configs.coresets import FC, RECORDING
from kip.configs.main_table import NETWORK, judged

IPC = 10
JUDGED = {"network": NETWORK, **judged(IPC)}


def in_network(by: str, space: str = "network", **options: object) -> kip.Geometric:
    """Return a choice by where images are to a network."""
    return kip.Geometric(IPC, by=by, space=space, recording=RECORDING, **options, **JUDGED)


def in_kernel(by: str) -> kip.Geometric:
    """Return a choice by where images are under a kernel."""
    return kip.Geometric(IPC, by=by, space="kernel", kernel=FC, candidates=500, **JUDGED)


def pruning(score: str, keep: str = "easiest", **options: object) -> kip.Pruning:
    """Return a choice by a score."""
    return kip.Pruning(IPC, score=score, keep=keep, recording=RECORDING, **options, **JUDGED)


rules = {
    **{by: in_network(by) for by in ("medoids", "facility_location", "graph_cut", "craig")},
    "glister": in_network("glister", "gradients"),
    "glister_class": in_network("glister", "gradients", glister_on="class"),
    "kernel_k_centers": in_kernel("k_centers"),
    "kernel_herding": in_kernel("herding"),
    "determinantal": in_kernel("determinantal"),
    **{score: pruning(score) for score in ("aum", "grand", "entropy", "least_confidence", "margin")},
    "el2n_sl": pruning("el2n_sl", teacher=RECORDING),
    "cal": pruning("cal", "hardest"),
    "cal_deepcore": pruning("cal_deepcore", "easiest"),
    "cad_epoch_4": kip.Pruning(IPC, score="cad", epoch=4, **JUDGED),
    "dyn_unc": pruning("dyn_unc", "hardest", window=4),
    "dual": pruning("dual", "beta", window=4),
    "ccs": pruning("aum", "strata", drop=0.3),
    "d2": pruning("forgetting", "graph", drop=0.4, neighbours=5),
}
rows = {
    f"cifar10_{rule}": kip.Experiment(
        data=kip.Data("cifar10"), preprocess=kip.Preprocess("standardize"), method=method, checkpoint_every=1
    )
    for rule, method in rules.items()
}
