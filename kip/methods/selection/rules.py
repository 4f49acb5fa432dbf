"""All rules by which natural images are chosen; `Selection` takes one of them.

| rule | takes | file |
|---|---|---|
| `Random` | any images | `geometric` |
| `Herding`, `KCenters`, `Medoids` | images by where they are in a space, typical or far apart | `geometric` |
| `FacilityLocation`, `GraphCut`, `CRAIG` | images that are similar to all others | `geometric` |
| `Leverage`, `Determinantal` | images that span the space | `geometric` |
| `GLISTER` | images whose gradients lower the loss of all | `geometric` |
| `Hardest`, `Easiest`, `Window` | a part of the order by a score | `pruning` |
| `CCS`, `DUAL`, `D2` | images by a score, as these papers do | `pruning` |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Union

from pydantic import Field

from kip.methods.selection.geometric import (
    CRAIG,
    GLISTER,
    Determinantal,
    FacilityLocation,
    GraphCut,
    Herding,
    InSpace,
    KCenters,
    Leverage,
    Medoids,
    Random,
)
from kip.methods.selection.pruning import CCS, D2, DUAL, Easiest, Hardest, Window

Rule = Annotated[
    Union[
        Random,
        Herding,
        KCenters,
        Medoids,
        FacilityLocation,
        GraphCut,
        CRAIG,
        GLISTER,
        Leverage,
        Determinantal,
        Hardest,
        Easiest,
        Window,
        CCS,
        DUAL,
        D2,
    ],
    Field(discriminator="kind"),
]
"""A rule: its JSON form is tagged by `kind`."""


PARTS = ("hardest", "easiest", "window")
"""The kinds of rules that take a part of the order by a score."""


def title(rule: Rule) -> str:
    """Return the name of a rule in titles, with its space or score."""
    if isinstance(rule, (InSpace, Medoids)):
        return f"{rule.kind} in {rule.space.label}"
    if isinstance(rule, (Hardest, Easiest, Window, CCS, D2)):
        return f"{rule.kind} by {rule.score.kind}"
    return rule.kind


def name(rule: Mapping[str, Any]) -> str:
    """Return the name of a rule in tables, from its JSON form: its kind, or that of its score where it takes a part."""
    kind, score = rule.get("kind"), rule.get("score")
    return str(score.get("kind") if kind in PARTS and isinstance(score, dict) else kind)


__all__ = [
    "CCS",
    "CRAIG",
    "D2",
    "DUAL",
    "GLISTER",
    "Determinantal",
    "Easiest",
    "FacilityLocation",
    "GraphCut",
    "Hardest",
    "Herding",
    "KCenters",
    "Leverage",
    "Medoids",
    "Random",
    "Rule",
    "Window",
    "name",
    "title",
]
