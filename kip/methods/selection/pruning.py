"""Choosing images by how hard they are to networks that learn the train set.

One recording of logits (`kip.training.records`), shared between runs, serves all scores; `grand` alone has a recording
of its own, with the norms of gradients in it.

| `score` | `epoch` (None) | is high where | formula in |
|---|---|---|---|
| `forgetting` | the last that counts (all) | an image is forgotten often, or never learned | `dynamics` |
| `aum` | the last that counts (all) | the true class has no lead over the others | `dynamics` |
| `dyn_unc` | the last that counts (all) | the true class's probability moves; `window` (10) epochs | `dynamics` |
| `dual` | the last that counts (30) | it moves and is low; `window` (10) epochs | `dynamics` |
| `el2n_sl` | the last that counts (all) | predictions are far from soft labels at `temperature` | `dynamics` |
| `cad` | K (compute-aligned) | it moves in the last `windows` windows of `window` (K - windows) | `dynamics` |
| `el2n` | which (10) | the error of the probabilities is large | `uncertainty` |
| `grand` | which (10) | the gradient of the loss by all parameters is long | here |
| `entropy`, `least_confidence`, `margin` | which (the last) | predictions are unsure | `uncertainty` |
| `cal` | the last, always | they differ from those of `neighbours` images near by | `uncertainty` |

`grand` is the mean over seeds of |grad_theta CE|_2 by all parameters (Paul et al. 2021, equation 4); DeepCore takes the
last layer, after 40 epochs. K of `cad` is such that K passes over the train set are as many updates as the judge's
protocol makes on the chosen images: K N = epochs |S|.

| `keep` | what is kept | the paper's |
|---|---|---|
| `hardest`, `easiest` | one end | most scores; `easiest` where few images are kept (Sorscher et al. 2022) |
| `window` | a run of the order by difficulty: `start` 0 is the hardest, 1 the easiest | EL2N-Best is the best `start` |
| `strata` | equal shares of 50 strata of difficulty, without the `drop` hardest | CCS: `score` aum |
| `beta` | a draw by score and mean probability | DUAL: `score` dual |
| `graph` | the hardest in turn, which lower their neighbours, without the `drop` hardest | D2 |

EL2N-Best slides a window over all starts and keeps the best; do so by runs that differ in `start`, and compare their
validation accuracies. Each rule applies to each class, or to all images together with `balanced` off, as the public
codes of DUAL, CCS and D2 have it. Neighbours are those of the first network's last features.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from kip.artefacts import Store
from kip.config import value
from kip.errors import ConfigError
from kip.methods.problem import Problem
from kip.methods.selection import budgets, dynamics, uncertainty
from kip.methods.selection.dynamics import ThatVaries
from kip.methods.selection.neighbours import nearest
from kip.methods.selection.selection import Choice, Selection, by_class
from kip.rng import generator
from kip.training.records import Recording, Records, record

Score = Literal[
    "forgetting", "aum", "dyn_unc", "dual", "el2n_sl", "cad", "el2n", "grand", "entropy", "least_confidence", "margin",
    "cal",
]  # fmt: skip
Keep = Literal["hardest", "easiest", "window", "strata", "beta", "graph"]
EARLY = 10
"""The epoch of `el2n` and `grand` where none is given."""
DUAL_EPOCHS = 30
"""The epochs of `dual` where none are given."""


@value
class Pruning(Selection):
    """Choose natural images by how hard they are to networks that learn: EL2N, forgetting, AUM, CCS, DUAL, D2, ..."""

    score: Score = "el2n"
    """The difficulty of an image; see the table of `kip.methods.selection.pruning`."""
    keep: Keep = "hardest"
    """Which difficulties are kept; see the other table there."""
    recording: Recording = Recording()
    """The networks, as they learn the train set."""
    epoch: Annotated[int, Field(ge=1)] | None = None
    """The epoch that a score looks at, or the last one that it counts; None: see the table."""
    window: Annotated[int, Field(ge=2)] | None = None
    """Epochs of a window of `dyn_unc`, `dual` and `cad`; None: 10, and for `cad` all but the last `windows`."""
    windows: Annotated[int, Field(ge=1)] = 2
    """Windows of `cad`."""
    varies: ThatVaries = "probability"
    """Of `cad`: the probability of the true class, or the error of all of them."""
    temperature: Annotated[float, Field(gt=0)] = 20.0
    """Of `el2n_sl`."""
    start: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Of `window`: where it begins, from 0, the hardest, to 1, the easiest."""
    drop: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of `strata` and `graph`: the fraction of the hardest images left out. CCS: 0.3 where 90 % are pruned."""
    neighbours: Annotated[int, Field(ge=1)] = 10
    """Of `cal` and `graph`: neighbours of an image."""
    gamma: Annotated[float, Field(gt=0)] = 0.1
    """Of `graph`: the smaller, the more a chosen image lowers its neighbours."""
    name: Literal["pruning"] = "pruning"

    def __post_init__(self) -> None:
        if self.keep == "beta" and self.score != "dual":
            raise ConfigError("score with keep='beta'", got=repr(self.score), expected="'dual'")
        if self.epoch is not None and self.score == "cal":
            raise ConfigError("epoch with score='cal'", got=self.epoch, expected="None, for it takes the last")
        if self.epoch is not None and self.epoch > self.recording.epochs:
            raise ConfigError("epoch", got=self.epoch, expected=f"at most recording.epochs, {self.recording.epochs}")
        if self.score in ("dyn_unc", "dual") and self._window > self._epoch:
            raise ConfigError(
                f"window of {self.score}",
                got=f"{self._window} epochs",
                expected=f"at most {self._epoch}, the epochs that count",
                remedy="Record more epochs (recording.epochs), or make windows shorter (window).",
            )

    @property
    def label(self) -> str:
        """The score, what is kept, and the network that judges."""
        return f"{self.score}, {self.keep} ({self.network.label})"

    @property
    def _epoch(self) -> int:
        """The epoch that the score looks at, or the last one that it counts; not for `cad`."""
        if self.epoch is not None:
            return self.epoch
        early = {"el2n": EARLY, "grand": EARLY, "dual": DUAL_EPOCHS}
        return min(early.get(self.score, self.recording.epochs), self.recording.epochs)

    @property
    def _window(self) -> int:
        return self.window or 10

    def choose(self, problem: Problem, store: Store) -> Choice:
        """Return the choice.

        Raises:
            ConfigError: if the recording has fewer epochs than `cad` is aligned with, or they are fewer than its
                windows need; if a class has no more images than `neighbours`.
            NonFiniteError: if a network diverges.
            OutputError, DataError: if the recording cannot be kept or read.
        """
        groups = self.groups(problem)
        aligned = self._aligned(problem) if self.score == "cad" else None
        smallest = min(len(members) for members, _ in groups)
        if self.score == "cal":
            smallest = len(problem.labels)
        if (self.score == "cal" or self.keep == "graph") and self.neighbours >= smallest:
            expected = f"fewer than the images that are chosen from, {smallest}"
            raise ConfigError("neighbours", got=self.neighbours, expected=expected)
        records = record(
            self.recording, self.network, problem.inputs, problem.labels, problem.num_classes, seed=problem.seed,
            mirror_keeps_class=problem.mirror_keeps_class, store=store,
            gradients_after=(self._epoch,) if self.score == "grand" else (),
        )  # fmt: skip
        difficulty = self.difficulty(records, aligned)
        probability = None
        if self.keep == "beta":
            probability = records.scores(lambda f, y: dynamics.mean_probability(f, y, self._epoch))
        indices = []
        for label, (members, budget) in enumerate(groups):
            of_group = difficulty[members]
            draw = generator(problem.seed, "pruning", label)
            if self.keep == "strata":
                chosen = budgets.strata(of_group, budget, draw, drop=self.drop)
            elif self.keep == "graph":
                near = nearest(records.features(members), self.neighbours)
                chosen = budgets.graph(of_group, near, budget, gamma=self.gamma, drop=self.drop)
            elif probability is not None:
                chosen = budgets.beta(of_group, probability[members], budget, draw)
            elif self.keep == "window":
                chosen = budgets.window(of_group, budget, self.start)
            else:
                chosen = (budgets.easiest if self.keep == "easiest" else budgets.hardest)(of_group, budget)
            indices.append(members[chosen])
        chosen = by_class(np.concatenate(indices), problem.labels)
        return Choice(chosen, np.ones(len(chosen), np.float32))

    def difficulty(self, records: Records, aligned: int | None = None) -> np.ndarray:
        """Return the score of every train image, (N,) float64, the hardest the highest.

        Args:
            records: of the train set.
            aligned: K of `cad`.
        """
        last = self._epoch
        if self.score == "grand":
            return records.gradient_norms()[:, 0].mean(0).astype(np.float64)
        if self.score == "cal":
            return uncertainty.cal(records.last(), nearest(records.features(), self.neighbours).indices)
        if self.score == "cad":
            assert aligned is not None
            window = self.window or aligned - self.windows
            return records.scores(lambda f, y: dynamics.cad(f, y, aligned, window, self.windows, self.varies))
        of_logits = {
            "forgetting": lambda f, y: dynamics.forgetting(f, y, last),
            "aum": lambda f, y: dynamics.aum(f, y, last),
            "dyn_unc": lambda f, y: dynamics.dyn_unc(f, y, self._window, last),
            "dual": lambda f, y: dynamics.dual(f, y, self._window, last),
            "el2n_sl": lambda f, y: dynamics.el2n_sl(f, self.temperature, last),
            "el2n": lambda f, y: uncertainty.el2n(f, y, last),
            "entropy": lambda f, y: uncertainty.entropy(f, last),
            "least_confidence": lambda f, y: uncertainty.least_confidence(f, last),
            "margin": lambda f, y: uncertainty.margin(f, last),
        }
        return records.scores(of_logits[self.score])

    def _aligned(self, problem: Problem) -> int:
        """Return K of `cad`."""
        count, chosen = len(problem.labels), int(self.budgets(problem).sum())
        aligned = self.epoch or dynamics.aligned_epochs(count, chosen, self.protocol.epochs)
        if aligned > self.recording.epochs:
            raise ConfigError(
                "recording.epochs",
                got=self.recording.epochs,
                expected=f"at least {aligned}, the epochs that cad is compute-aligned with",
                remedy="Or set the method's `epoch` lower.",
            )
        window = self.window or aligned - self.windows
        if window < 2 or window + self.windows > aligned:
            raise ConfigError(
                "epochs of cad (epoch, or those that it is compute-aligned with)",
                got=aligned,
                expected=f"at least {max(window, 2) + self.windows}, for {self.windows} windows of {max(window, 2)}",
                remedy="Choose more images, or set the method's `epoch`, `window` or `windows`.",
            )
        return aligned
