"""CIFAR-10, 10 images a class: every rule by which natural images are chosen, for two CPU cores

Rows are named `cifar10_RULE`. Rules:

- `medoids`, `facility_location`, `graph_cut`, `craig`: by where images are in the features of a network that learned
  the train set; `glister`: by its gradients, for the loss of all classes, with a last layer that begins at 0, and
  `glister_class`: for the loss of each class, with the trained layer, as DeepCore does.
- `kernel_k_centers`, `kernel_herding`, `determinantal`: by where images are under the NTK of a fully connected network,
  of 500 images of each class.
- `aum`, `el2n_sl`, `grand`, `entropy`, `least_confidence`, `margin`: the images that are easiest by the score, as
  networks learn; `dyn_unc`: the hardest, as published. The teacher of `el2n_sl` is a second network of as many epochs.
- `cal`: the highest divergence from neighbours, as its authors choose; `cal_deepcore`: the lowest, as DeepCore does.
- `dual`, `ccs`, `d2`: the published choices by these scores. `d2` has the setting that its public code gives for 10 %
  kept, the nearest to these 0.2 %: the hardest 40 % by AUM are dropped first, 5 neighbours, gamma 0.1.
- `cad_four_epochs` is not CAD-Prune, which is not defined at this size: its K, of which K N = epochs |S|, is 0.67
  epochs, and two windows of two epochs need 4. The row has the score with 4 in place of K, of networks that
  train for exactly 4 epochs by the recipe of HL.

The recording is that of `coresets`, which has random images, herding, K-centers, leverage scores, EL2N and forgetting.
Its 8 epochs are fewer than the papers', so that windows are of 4 epochs. What the rows reach stands in
`docs/main_table.md`.

    kip distill selections:cifar10_facility_location

Reference: Guo et al. 2022, "DeepCore"; the docstring of each rule has its source.
"""

import kip
from kip import rules, scores
from kip.configs.coresets import FC, FEATURES, RECORDING
from kip.configs.main_table import NETWORK, judged

RULES = {
    "medoids": rules.Medoids(FEATURES),
    "facility_location": rules.FacilityLocation(FEATURES),
    "graph_cut": rules.GraphCut(FEATURES),
    "craig": rules.CRAIG(FEATURES),
    "glister": rules.GLISTER(RECORDING),
    "glister_class": rules.GLISTER(RECORDING, on="class", last_layer="trained"),
    "kernel_k_centers": rules.KCenters(FC, candidates=500),
    "kernel_herding": rules.Herding(FC, candidates=500),
    "determinantal": rules.Determinantal(FC, candidates=500),
    "aum": rules.Easiest(scores.AUM(RECORDING)),
    "grand": rules.Easiest(scores.GraNd(RECORDING)),
    "entropy": rules.Easiest(scores.Entropy(RECORDING)),
    "least_confidence": rules.Easiest(scores.LeastConfidence(RECORDING)),
    "margin": rules.Easiest(scores.Margin(RECORDING)),
    "el2n_sl": rules.Easiest(scores.EL2NSL(RECORDING, teacher=RECORDING)),
    "cal": rules.Hardest(scores.CAL(RECORDING)),
    "cal_deepcore": rules.Easiest(scores.CALDeepCore(RECORDING)),
    "cad_four_epochs": rules.Hardest(scores.CAD(epochs=4)),
    "dyn_unc": rules.Hardest(scores.DynUnc(RECORDING, window=4)),
    "dual": rules.DUAL(scores.DUALScore(RECORDING, window=4)),
    "ccs": rules.CCS(scores.AUM(RECORDING), drop=0.3),
    "d2": rules.D2(scores.Forgetting(RECORDING), drop=0.4, neighbours=5),
}
rows = {
    f"cifar10_{name}": kip.Experiment(
        data=kip.Data("cifar10"),
        preprocess=kip.Preprocess("standardize"),
        method=kip.Selection(10, rule=rule, network=NETWORK, **judged(10)),
        checkpoint_every=1,
    )
    for name, rule in RULES.items()
}
