"""Natural images that are chosen, and not learned: coresets and pruning on MNIST and CIFAR-10, for two CPU cores

Rows are named `DATA_RULE_IPC`, IPC images of each class. Rules:

- `random`, `herding`, `k_centers`: by where images are in the features of a network that learned the train set; random
  needs none.
- `leverage`: a draw by ridge leverage scores under the NTK of a fully connected network, of 500 images of each class.
- `el2n`, `forgetting`: the images that are easiest to networks as they learn, which is what few images should be
  (Sorscher et al. 2022).

CAD-Prune has no row: it is not defined for so few images, as its K, of which K N = epochs |S|, is below one epoch.
`rethinking` has it where it is defined.

One recording of a ConvNet-D3 of width 32 over 8 epochs serves all rows of a data set. `kip compare` puts them beside
distilled sets. What they reach stands in `docs/main_table.md`; `rethinking` has the published rows of CIFAR-100.

    kip distill coresets:mnist_k_centers_10

Reference: "Rethinking Dataset Distillation: Hard Truths About Soft Labels"; Guo et al. 2022, "DeepCore".
"""

import kip
from kip.configs.main_table import NETWORK, judged

RECORDING = kip.Recording(epochs=8)
FC = kip.Architecture("FC", 1)


def method(rule: str, ipc: int) -> kip.Geometric | kip.Pruning:
    """Return the choice of a rule."""
    if rule in ("random", "herding", "k_centers"):
        return kip.Geometric(ipc, by=rule, space="network", network=NETWORK, recording=RECORDING, **judged(ipc))
    if rule == "leverage":
        return kip.Geometric(
            ipc, by="leverage", space="kernel", kernel=FC, candidates=500, network=NETWORK, **judged(ipc)
        )
    return kip.Pruning(ipc, score=rule, keep="easiest", recording=RECORDING, network=NETWORK, **judged(ipc))


rows = {
    f"{data}_{rule}_{ipc}": kip.Experiment(
        data=kip.Data(data), preprocess=kip.Preprocess("standardize"), method=method(rule, ipc), checkpoint_every=1
    )
    for data in ("mnist", "cifar10")
    for rule in ("random", "herding", "k_centers", "leverage", "el2n", "forgetting")
    for ipc in (1, 10)
}
