"""`kip configs`: families within a screen, and names by the words in them."""

import re

import pytest

from kip import experiment
from kip.cli import configurations
from kip.errors import ConfigError

NAMES = experiment.names()


def test_the_families_fill_less_than_a_screen_of_80_columns():
    lines = list(configurations.overview(NAMES))
    assert len(lines) <= 22  # and the command itself, and the next prompt
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("name", sorted({name.partition(":")[0] for name in NAMES}))
def test_every_file_belongs_to_one_family(name):
    has_rows = any(listed.startswith(f"{name}:") for listed in NAMES)
    families = configurations.TABLES if has_rows else configurations.SINGLES
    assert sum(family.holds(name) for family in families) == 1


def test_the_numbers_of_the_families_are_those_of_their_members():
    numbers = [int(number) for line in configurations.overview(NAMES) for number in re.findall(r"^  .* +(\d+)  ", line)]
    assert len(numbers) == len(configurations.SINGLES + configurations.TABLES)
    assert min(numbers) >= 1
    assert sum(numbers) == len(NAMES)


@pytest.mark.parametrize(
    ("words", "some", "others"),
    [
        (["cifar10"], {"cifar10_dc_10", "dc:cifar10_ipc10", "table_1:cifar10_ipc10_kip"}, {"mnist_dc_10"}),
        (["CIFAR10", "dsa"], {"cifar10_dsa_10", "dsa:cifar10_ipc50"}, {"cifar10_dc_10", "dsa:mnist_ipc1"}),
        (["dc:"], {"dc:cifar10_ipc10"}, {"cifar10_dc_10"}),
        (["table_a5:ipc10_plain"], {"table_a5:ipc10_plain"}, {"table_a5:ipc1_plain"}),
    ],
)
def test_words_leave_the_names_that_have_all_of_them(words, some, others):
    found = set(configurations.matching(words, NAMES))
    assert some <= found
    assert not others & found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ciphar10"], r"no configuration has 'ciphar10' in its name\. Did you mean cifar10\? `kip configs`"),
        (["selection_"], r"no configuration has 'selection_' in its name\. Did you mean selections\?"),
        (["mnist", "labelsolve"], r"has 'labelsolve' in its name\."),
        (["mnist", "rethinking"], r"has 'mnist' and 'rethinking' in its name\. `kip configs`"),
    ],
)
def test_words_that_leave_nothing_are_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        configurations.matching(words, NAMES)


def test_a_name_comes_with_the_published_result_or_with_what_it_is(capsys):
    listed = configurations.configs(("digits",))["configs"] | configurations.configs(("cifar10_dsa_10",))["configs"]
    assert "quick start" in listed["digits_convnet"]
    assert listed["cifar10_dsa_10"].startswith("28.8 +- 0.7 %")
    assert capsys.readouterr().out.splitlines() == [f"{name}  {line}" for name, line in listed.items()]
