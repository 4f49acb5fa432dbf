"""The command that computes whole kernel matrices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from kip.cli.options import Address, DataDir, Json, Stax, check_workers, named
from kip.data import Data
from kip.kernels import Implementation
from kip.preprocess import Preprocess


def kernel(
    data: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="DATA")]],
    *,
    kernel: str = "ConvNet",
    get: Literal["ntk", "nngp"] = "ntk",
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")],
    num_train: Annotated[int | None, tyro.conf.arg(metavar="N")] = None,
    num_test: Annotated[int | None, tyro.conf.arg(metavar="N")] = None,
    preprocess: Preprocess = Preprocess(),  # noqa: B008 (frozen)
    dtype: Literal["float32", "float64"] = "float32",
    implementation: Implementation = "auto",
    memory_mib: int = 1024,
    seed: int = 0,
    executor: Literal["local", "zmq", "ray"] = "local",
    workers: int = 1,
    address: Address = None,
    check_share: float = 0.01,
    mixed_hardware: bool = False,
    wait_for_workers: float = 600.0,
    data_dir: DataDir = None,
    stax: Stax = (),
    json: Json = False,
) -> dict[str, Any]:
    """Compute whole kernel matrices into a folder: train x train and test x train, as memory-mapped .npy files.

    Running the same command again goes on where it was stopped or killed, to the same bits. The folder holds train.npy,
    test.npy, the labels, and the diagonal of test x test, which the variance of a Gaussian process needs.

        kip kernel digits --kernel FC1 --out digits_fc1
        kip kernel cifar10 --kernel ConvVec3 --num-train 10000 --num-test 2000 --out cifar10_convvec3
        kip kernel cifar10 --num-train 2000 --num-test 0 --executor zmq --workers 2 --out cifar10_convnet

    Args:
        data: The data set: digits, mnist, cifar10, ..., as "mnist shrink=2", with all of its train images; or an .npz
            file with x_train or images, whose bytes are preprocessed and whose floats are taken as they are.
        kernel: The kernel: FC1, ConvVec3, ConvNet, ConvNet3, Myrtle5, RBF, Laplace, ...
        get: The kernel of a named network that is computed: the neural tangent kernel, or the Gaussian process kernel.
        out: The folder of the matrices.
        num_train: The number of train images, class-balanced where classes are known. The default is all.
        num_test: The number of test images, likewise. 0 computes train x train alone. The default is all.
        preprocess: The preprocessing of bytes before the kernel sees them, fitted on all train images.
        dtype: The dtype of the computation and of the files.
        implementation: The program that computes the kernels of networks, as in a run.
        memory_mib: The temporary memory of a block, in MiB. It sets the size of the blocks.
        seed: The seed that draws the images.
        executor: The place where blocks are computed: in this process (local), in worker processes (zmq), or in ray's
            actors.
        workers: The number of worker processes that zmq or ray starts.
        address: With zmq, HOST:PORT to listen on for workers on other machines (`kip worker`); the default is loopback
            and any port. With ray, the address of a cluster that runs; the default is a new one on this machine.
        check_share: The share of the workers' blocks that is computed twice and compared.
        mixed_hardware: Let workers of different hardware compute for one matrix.
        wait_for_workers: The seconds that the command waits where no worker is there, before it ends.
        data_dir: The folder of NAME.npz files. The default is $KIP_DATA_DIR.
        stax: The functions of Stax kernels that may be loaded. Loading one runs the file that it is in.
        json: Print one JSON object with the results as the last line of stdout.
    """
    from kip.blocks import Blocks, LocalExecutor
    from kip.cli import cost
    from kip.functions import inputs, stored
    from kip.kernels import permission
    from kip.kernels.architecture import kernel_named

    permission.permit(*stax)
    value, config = kernel_named(kernel, get), Blocks(memory_mib, dtype, implementation)
    check_workers(executor, workers, check_share, wait_for_workers, address=address, mixed_hardware=mixed_hardware)
    counts = {"num_train": num_train, "num_test": num_test, "seed": seed}
    path = Path(data)
    if path.suffix == ".npz":
        wanted = None if preprocess == Preprocess() else preprocess
        images = inputs.of_file(path, preprocessing=wanted, **counts)
    else:
        images = inputs.of_data(named(Data, data), preprocessing=preprocess, data_dir=data_dir, **counts)
    job = stored.Job(value, config, *images)
    if executor == "local":
        with LocalExecutor() as local:
            outcome = stored.write(out, job, local)
    else:
        from kip.server import matrices
        from kip.server.member import Settings

        settings = Settings(check_share=check_share, mixed_hardware=mixed_hardware, patience=wait_for_workers)
        outcome = matrices.write(out, job, transport=executor, workers=workers, address=address, settings=settings)
    matrix = stored.load_kernel(out)
    rows = {"train": matrix.train, "test": matrix.test}
    for name, found in rows.items():
        if found is not None:
            print(f"{out / name}.npy".ljust(32) + f" {found.shape[0]} x {found.shape[1]} {found.dtype}")
    spent = cost()
    memory = "" if spent["peak_memory_mib"] is None else f", {spent['peak_memory_mib']} MiB"
    print(f"{outcome.entries} entries computed in {spent['seconds']:.0f} s{memory}")
    return {
        "out": str(out),
        **{name: None if found is None else list(found.shape) for name, found in rows.items()},
        **outcome._asdict(),
    }
