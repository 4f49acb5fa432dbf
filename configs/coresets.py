"""Natural images that are chosen, and not learned: coresets and pruning on MNIST and CIFAR-10, for two CPU cores

Rows are named `DATA_RULE_ipcN`, N images of each class. Rules:

- `random`, `herding`, `k_centers`: by where images are in the features of a network that learned the train set; random
  needs none.
- `leverage`: a draw by ridge leverage scores under the NTK of a fully connected network, of 500 images of each class.
- `el2n`, `forgetting`: the images that are easiest to networks as they learn, which is what few images should be
  (Sorscher et al. 2022).

CAD-Prune has no row: it is not defined for so few images, as its K, of which K N = epochs |S|, is below one epoch.
`rethinking` has it where it is defined.

One recording of a ConvNet-D3 of width 32 over 8 epochs serves all rows of a data set. `kip compare` puts them beside
distilled sets. What they reach stands in `docs/main_table.md`; `rethinking` has the published rows of CIFAR-100.

    kip distill coresets:mnist_k_centers_ipc10

Reference: "Rethinking Dataset Distillation: Hard Truths About Soft Labels"; Guo et al. 2022, "DeepCore".
"""

import kip
from kip import rules, scores, spaces
from kip.configs.main_table import NETWORK, judged

RECORDING = kip.Recording(epochs=8)
FEATURES = spaces.Features(RECORDING)
FC = spaces.KernelSpace(kip.Architecture("FC", 1))
RULES = {
    "random": rules.Random(),
    "herding": rules.Herding(FEATURES),
    "k_centers": rules.KCenters(FEATURES),
    "leverage": rules.Leverage(FC, candidates=500),
    "el2n": rules.Easiest(scores.EL2N(RECORDING)),
    "forgetting": rules.Easiest(scores.Forgetting(RECORDING)),
}

rows = {
    f"{data}_{name}_ipc{ipc}": kip.Experiment(
        data=kip.Data(data),
        preprocess=kip.Preprocess("standardize"),
        method=kip.Selection(ipc, rule=rule, network=NETWORK, **judged(ipc)),
        checkpoint_every=1,
    )
    for data in ("mnist", "cifar10")
    for name, rule in RULES.items()
    for ipc in (1, 10)
}
