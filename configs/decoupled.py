"""SRe2L, CDA, DWA, G-VBSM, EDC, FADRM and RDED at published size (published rows)

Rows are named `METHOD_NETWORK_DATA_ipcN`, N images of each class: `sre2l_resnet_cifar10_ipc10` squeezes and trains
ResNet-18 with a 3x3 stem, `dwa_convnet_cifar100_ipc50` ConvNet-D3 with batch normalisation. Sets are judged as
published: fresh networks learn from the labels that the squeezed networks give to every view; the module
`kip.training.protocols` has the protocols, and the batches in which RDED's students learn sets of each size.
G-VBSM, EDC and FADRM+ (`fadrmplus`) match several networks, those of the papers.
Tiny-ImageNet and ImageNet-1K are folders of pictures, `tiny_imagenet` and `imagenet`, in the data folder; ResNet-18 has
its 3x3 stem there too. CDA's rows on Tiny-ImageNet have no figure here; RDED's on ImageNet-1K are under hard labels.

Expected: `reference` of each row. Those of SRe2L and RDED are as other papers report them.
None of these rows was run here: they are for an accelerator. Smaller configurations: `cifar10_sre2l_100`,
`cifar10_dwa_100`, `cifar10_rded_100`.

    kip distill decoupled:dwa_resnet_cifar10_ipc10

References: Yin, Xing, Shen 2023 (SRe2L); Yin and Shen 2023 (CDA); Du et al. 2024 (DWA); Shao et al. 2024 (G-VBSM, EDC);
Cui et al. 2025 (FADRM); Sun et al. 2024 (RDED); "Rethinking Dataset Distillation: Hard Truths About Soft Labels".
"""

import dataclasses

import kip
from kip.training.protocols import for_set

CLASSES = {"cifar10": 10, "cifar100": 100}
NETWORKS = {
    "resnet": kip.Network("ResNet18"),
    "convnet": kip.Network("ConvNet-D3", norm="batch", w_std=3**-0.5),
}
TITLES = {"resnet": "ResNet-18", "convnet": "ConvNet-D3", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
PUBLISHED = {  # images of each class: percent, +-
    "sre2l_resnet_cifar10": {10: (27.2, 0.4), 50: (47.5, 0.5)},
    "sre2l_resnet_cifar100": {10: (31.6, 0.5), 50: (49.5, 0.3)},
    "dwa_resnet_cifar10": {10: (32.6, 0.4), 50: (53.1, 0.3)},
    "dwa_resnet_cifar100": {10: (39.6, 0.6), 50: (60.9, 0.5)},
    "dwa_convnet_cifar10": {10: (45.0, 0.4), 50: (63.3, 0.7)},
    "dwa_convnet_cifar100": {10: (47.6, 0.4), 50: (59.0, 0.1)},
    "gvbsm_resnet_cifar10": {10: (53.5, 0.6), 50: (59.2, 0.4)},
    "gvbsm_resnet_cifar100": {10: (59.5, 0.4), 50: (65.0, 0.5)},
    "gvbsm_convnet_cifar10": {10: (46.5, 0.7), 50: (54.3, 0.3)},
    "gvbsm_convnet_cifar100": {10: (38.7, 0.2), 50: (45.7, 0.4)},
    "edc_resnet_cifar100": {10: (63.7, None), 50: (68.6, None)},
    "fadrm_resnet_cifar100": {10: (67.4, None), 50: (71.0, None)},
    "fadrmplus_resnet_cifar100": {10: (67.9, None), 50: (71.3, None)},
    "rded_resnet_cifar10": {1: (22.9, 0.4), 10: (37.1, 0.3), 50: (62.1, 0.1)},
    "rded_resnet_cifar100": {10: (42.6, 0.2), 50: (62.6, 0.1)},
    "rded_convnet_cifar10": {1: (23.5, None), 10: (50.2, None), 50: (68.4, None)},
    "rded_convnet_cifar100": {1: (19.6, None), 10: (48.1, None), 50: (57.0, None)},
}
PAPERS = {
    "sre2l": "SRe2L, as other papers report it",
    "dwa": "Du et al. 2024",
    "gvbsm": "Shao et al. 2024, G-VBSM",
    "edc": "Shao et al. 2024, EDC",
    "fadrm": "Cui et al. 2025, FADRM",
    "fadrmplus": "Cui et al. 2025, FADRM+",
    "rded": "RDED, as other papers report it",
}
SOME = (kip.Network("DenseNet121"), kip.Network("ShuffleNetV2"), kip.Network("MobileNetV2"))
"""The networks that follow ResNet-18 in the rows of FADRM+."""


def method(
    name: str, network: kip.Network, data: str, ipc: int
) -> kip.SRe2L | kip.GVBSM | kip.EDC | kip.FADRM | kip.RDED:
    """Return the method of a row."""
    common = {"images_per_class": ipc, "network": network, "evaluation_network": network}
    if name == "rded":
        protocol = for_set(
            kip.PROTOCOLS["RDED"], classes=CLASSES[data], images_per_class=ipc, student=network, teacher=network
        )
        return kip.RDED(**common, protocol=protocol)
    if name == "gvbsm":
        first = common | {"network": NETWORKS["resnet"]}  # ConvNet-D3 is among the others
        return kip.GVBSM(**first, together=10, protocol=kip.PROTOCOLS["G-VBSM"])
    if name == "edc":
        # Several networks label views before the training, and not in it.
        return kip.EDC(**common, protocol=dataclasses.replace(kip.PROTOCOLS["EDC"], labels="stored views"))
    if name.startswith("fadrm"):
        others = SOME if name == "fadrmplus" else ()
        return kip.FADRM(**common, more_networks=others, protocol=kip.PROTOCOLS["FADRM"])
    return {"sre2l": kip.SRe2L, "dwa": kip.DWA}[name](**common, protocol=kip.PROTOCOLS["SRe2L"])


def row(kind: str, ipc: int, accuracy: float, spread: float | None) -> kip.Experiment:
    """Return the experiment of a published row."""
    name, network, data = kind.split("_")
    chosen = method(name, NETWORKS[network], data, ipc)
    return kip.Experiment(
        data=kip.Data(data, validation=5000),
        preprocess=kip.Preprocess("standardize"),
        method=chosen,
        checkpoint_every=chosen.steps,  # groups that were not recovered yet say nothing of the set
        reference=kip.Reference(
            f"{PAPERS[name]}, {TITLES[data]}, {ipc} a class, {TITLES[network]}",
            accuracy=round(accuracy / 100, 6),
            spread=None if spread is None else round(spread / 100, 6),
        ),
    )


rows = {
    f"{kind}_ipc{ipc}": row(kind, ipc, *figure)
    for kind, by_size in PUBLISHED.items()
    for ipc, figure in by_size.items()
}
for ipc in (10, 50):
    cda = kip.CDA(ipc, learning_rate=0.4, strength=0.05, protocol=kip.PROTOCOLS["SRe2L"])
    rows[f"cda_resnet_tiny_imagenet_ipc{ipc}"] = kip.Experiment(
        data=kip.Data("tiny_imagenet", side=64),
        preprocess=kip.Preprocess("standardize"),
        method=dataclasses.replace(cda, evaluation_network=cda.network),
        checkpoint_every=cda.steps,
    )
for ipc, accuracy in ((10, 14.34), (50, 38.49), (100, 44.36)):
    student = kip.Network("ResNet18")
    hard = for_set(kip.PROTOCOLS["HL-large"], classes=1000, images_per_class=ipc, student=student)
    rows[f"rded_resnet_imagenet_ipc{ipc}"] = kip.Experiment(
        data=kip.Data("imagenet", side=224),
        preprocess=kip.Preprocess("standardize"),
        method=kip.RDED(
            ipc,
            crops=kip.Crops(pool=max(300, 4 * ipc), factor=2),
            evaluation_network=student,
            protocol=dataclasses.replace(hard, augment="flip_tiles"),
        ),
        checkpoint_every=1,
        reference=kip.Reference(
            f"Hard Truths About Soft Labels, ImageNet-1K under hard labels, {ipc} a class, RDED",
            accuracy=round(accuracy / 100, 6),
        ),
    )
