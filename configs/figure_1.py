"""Sampling KIP on CIFAR-10: one set learned under three kernels, or under each alone (paper, Figure 1)

Rows: `all` draws one of ConvNet, ConvVec3 and ConvVec8 at each step; `convnet`, `convvec3` and `convvec8` are trained
with that kernel alone. 100 images, no augmentation, no ZCA, no learned labels.

Expected: evaluated under each of the three kernels, `all` is a close second to the set that was trained with just that
kernel. The paper gives a picture and no numbers, so that rows have no `reference`; `convnet` is the run of
`table_a5:ipc10_plain` (61.0 %).

Cost in the paper: hundreds of GPUs; one ConvNet step took 460 s of one V100. ConvVec kernels are far cheaper: section B
fits batches of 10^3 images a side into a V100 for ConvVec1, and 10 for ConvNet.

    kip distill figure_1:all

Reference: Nguyen et al. 2021, "Dataset Distillation with Infinitely Wide Convolutional Networks", section 3.2.
"""

import kip
from kip.configs._paper import kip_row

CONVNET, CONVVEC3, CONVVEC8 = (
    kip.Architecture("ConvNet"),
    kip.Architecture("ConvVec", 3),
    kip.Architecture("ConvVec", 8),
)

rows: dict[str, kip.Experiment] = {
    "all": kip_row("cifar10", 10, kernels=(CONVNET, CONVVEC3, CONVVEC8)),
    "convnet": kip_row("cifar10", 10, kernels=(CONVNET,)),
    "convvec3": kip_row("cifar10", 10, kernels=(CONVVEC3,)),
    "convvec8": kip_row("cifar10", 10, kernels=(CONVVEC8,)),
}
