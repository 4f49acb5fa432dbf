"""Build kip. The wheel owns the single name `kip`: server, workers and configs install inside it."""

from setuptools import find_packages, setup

INSIDE = {"kip.configs": "configs", "kip.server": "server", "kip.workers": "workers"}

setup(
    packages=[*find_packages(include=["kip", "kip.*"]), *INSIDE, "kip.sets.shipped"],
    package_dir=INSIDE,
)
