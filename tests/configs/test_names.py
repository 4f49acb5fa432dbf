"""Numbers in the names of configs mean one thing: all images of the set; `ipcN` means N images per class."""

import re

import pytest

from helpers.kinds import untyped
from kip import experiment
from kip.errors import ConfigError
from kip.methods.features.krr_st import KRRST

CLASSES = {"emnist_letters": 26, "cifar100": 100, "tiny_imagenet": 200, "imagenet": 1000}
"""Classes of data sets that have not ten."""
CONFIGS = {name: experiment.load(name) for name in experiment.names()}


def named(name):
    """Return the part of a name that says what the set is: a row's name, or that of a config without rows."""
    return name.partition(":")[2] or name


@pytest.mark.parametrize("name", [name for name in CONFIGS if re.search(r"_\d+(_|$)", named(name))])
def test_a_number_is_that_of_all_images(name):
    method, classes = CONFIGS[name].method, CLASSES.get(CONFIGS[name].data.name, 10)
    images = method.images if isinstance(method, KRRST) else untyped(method).images_per_class * classes
    assert [int(number) for number in re.findall(r"_(\d+)(?=_|$)", named(name))] == [images]


@pytest.mark.parametrize("name", [name for name in CONFIGS if "ipc" in name])
def test_ipc_is_the_number_of_images_per_class(name):
    assert re.findall(r"(?:^|_)ipc(\d+)(?=_|$)", named(name)) == [str(untyped(CONFIGS[name].method).images_per_class)]


def test_configs_that_differ_in_size_alone_say_the_size():
    sizes = {}
    for name, config in CONFIGS.items():
        stem = re.sub(r"(ipc)?\d+(?=_|$)", "N", named(name))
        method = config.method
        size = method.images if isinstance(method, KRRST) else untyped(method).images_per_class
        sizes.setdefault((name.partition(":")[0] if ":" in name else "", stem), []).append((size, name))
    for group in sizes.values():
        assert len({name for _, name in group}) == len(group)
        if len({size for size, _ in group}) > 1:
            assert all(re.search(r"ipc\d|_\d", named(name)) for _, name in group), group


@pytest.mark.parametrize(
    ("former", "name"),
    [
        ("cifar10_dwa_10", "cifar10_dwa_100"),
        ("cifar10_rded_10", "cifar10_rded_100"),
        ("cifar10_sre2l_10", "cifar10_sre2l_100"),
        ("datm:cifar10_10", "cifar10_ipc10"),
        ("dc:cifar100_10", "cifar100_ipc10"),
        ("main_table:mnist_dm_1", "mnist_dm_ipc1"),
        ("coresets:cifar10_random_10", "cifar10_random_ipc10"),
        ("rethinking:cifar100_k_centers_50", "cifar100_k_centers_ipc50"),
        ("decoupled:rded_resnet_imagenet_100", "rded_resnet_imagenet_ipc100"),
        ("decoupled:cda_resnet_tiny_imagenet_50", "cda_resnet_tiny_imagenet_ipc50"),
        ("selections:cifar10_cad_epoch_4", "cifar10_cad_four_epochs"),
    ],
)
def test_a_name_whose_number_meant_something_else_is_refused_and_the_new_one_named(former, name):
    with pytest.raises(ConfigError, match=rf"Did you mean {name}\?$"):
        experiment.load(former)
