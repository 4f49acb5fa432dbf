r"""Every family that learns, on MNIST and CIFAR-10 at 1 and 10 images a class: the README's table, for two CPU cores

Rows are named `DATA_METHOD_ipcN`, N images of each class. One narrow network, ConvNet-D3 of width 32, is what finite
methods learn with and what every set is judged with. All methods run for minutes where their papers take hours on an
accelerator, and so a row says what a method gives on a small machine, and not what it can give: the papers' rows have
configurations of their own. `coresets` has the rows of images that are chosen.

KIP and Label Solve are under the kernel of a fully connected network with one hidden layer, as ten images a class under
ConvNet take hours; `mnist_convnet_10` and `cifar10_convnet_10` join the table with one image a class.

`docs/main_table.md` has what all of them reach, with times.

    kip compare "main_table:*" "coresets:*" mnist_convnet_10 cifar10_convnet_10 --protocols HL SL SL+KD --seeds 3 \
        --networks "ConvNet-D3 width=32 w_std=0.57735" --teacher "ConvNet-D3 width=32 w_std=0.57735"
"""

import dataclasses

import kip
from kip.methods.contract import Method

NETWORK = kip.Network("ConvNet-D3", width=32, w_std=3**-0.5)
SQUEEZED = dataclasses.replace(NETWORK, norm="batch")
FREPO = kip.Network("FRePo-D3", width=16, norm="none", w_std=1.0)
FC = kip.Architecture("FC", 1)
METHODS = ("label_solve", "kip", "ld", "frepo", "rfad", "dc", "dsa", "dm", "mtt", "sre2l", "dwa", "rded")


def judged(ipc: int) -> dict:
    """Return how a run judges its own set: briefly, as the table trains networks of its own."""
    hard = kip.PROTOCOLS["HL"]
    return {
        "protocol": hard if ipc == 1 else dataclasses.replace(hard, name="HL 100", epochs=100),
        "test_networks": 1,
    }


def method(name: str, ipc: int) -> Method:
    """Return the method of a row."""
    finite = {"network": NETWORK, **judged(ipc)}
    decoupled = {
        "network": SQUEEZED,
        "evaluation_network": NETWORK,
        "squeeze": kip.Squeeze(epochs=8),
        **judged(ipc),
    }
    if name == "label_solve":
        return kip.LabelSolve(ipc, kernel=FC)
    if name == "kip":
        return kip.KIP(ipc, kernels=(FC,), learning_rate=0.02, schedule="cosine", steps=1000)
    if name == "ld":
        return kip.LD(ipc, target_batch=128, learning_rate=4e-3, steps=1000, test_networks=1)
    if name == "frepo":
        return kip.FRePo(
            ipc,
            network=FREPO,
            evaluation_network=FREPO,
            learning_rate=0.02,
            target_batch=256,
            steps=600,
            evaluation_steps=500,
            test_networks=1,
        )
    if name == "rfad":
        narrow = kip.Network("ConvNet-D3", width=32, norm="none", b_std=0.1)
        return kip.RFAD(ipc, network=narrow, networks=4, target_batch=512, steps=400, test_networks=1)
    if name in ("dc", "dsa"):
        loops = {} if ipc == 1 else {"outer_loop": 5, "inner_loop": 10}
        by_gradients = {"dc": kip.DC, "dsa": kip.DSA}[name]
        return by_gradients(ipc, real_batch=64, steps=200 if ipc == 1 else 40, **loops, **finite)
    if name == "dm":
        return kip.DM(ipc, real_batch=64, steps=400, **finite)
    if name == "mtt":
        return kip.MTT(
            ipc,
            experts=kip.Experts(count=1, epochs=6),
            last_start=3,
            student_steps=10,
            student_rate=0.02,
            rate_learning_rate=1e-6,
            steps=300,
            **finite,
        )
    if name == "rded":
        return kip.RDED(ipc, **decoupled)
    return {"sre2l": kip.SRe2L, "dwa": kip.DWA}[name](ipc, iterations=250, **decoupled)


def row(data: str, name: str, ipc: int) -> kip.Experiment:
    """Return the experiment of a row: the fewer checkpoints, the more networks a checkpoint trains."""
    chosen = method(name, ipc)
    checkpoints = 5 if name in ("kip", "ld", "frepo", "rfad") else 1
    return kip.Experiment(
        method=chosen,
        data=kip.Data(data),
        preprocess=kip.Preprocess("standardize"),
        checkpoint_every=chosen.steps // checkpoints,
    )


rows = {
    f"{data}_{name}_ipc{ipc}": row(data, name, ipc)
    for data in ("mnist", "cifar10")
    for ipc in (1, 10)
    for name in METHODS
    if name != "mtt" or (data, ipc) == ("cifar10", 1)  # elsewhere it takes longer than all other rows together
    if name != "dc" or ipc == 1  # it begins as noise, and of ten images a class noise is left after minutes
}
