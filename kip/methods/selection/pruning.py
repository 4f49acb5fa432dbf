"""Choosing images by how hard they are to networks that learn the train set.

One recording of logits (`kip.training.records`), shared between runs, serves most scores. `grand` has a recording of
its own, with the norms of gradients in it, `cad` one that is compute-aligned, and `el2n_sl` one of a teacher beside.

| `score` | `epoch` (None) | is high where | formula in |
|---|---|---|---|
| `forgetting` | the last that counts (all) | an image is forgotten often, or never learned | `dynamics` |
| `aum` | the last that counts (all) | the true class has no lead over the others | `dynamics` |
| `dyn_unc` | the last that counts (all) | the true class's probability moves; `window` (10) epochs | `dynamics` |
| `dual` | the last that counts (30) | it moves and is low; `window` (10) epochs | `dynamics` |
| `cad` | K (compute-aligned) | it moves in the last `windows` windows of `window` (K - windows) | `dynamics` |
| `el2n` | which (10) | the error of the probabilities is large | `uncertainty` |
| `el2n_sl` | which (10) | they are far from a separate teacher's soft labels at `temperature` | `uncertainty` |
| `grand` | which (10) | the gradient of the loss by all parameters is long | here |
| `entropy`, `least_confidence`, `margin` | which (the last) | predictions are unsure | `uncertainty` |
| `cal` | the last, always | predictions of `neighbours` images near by, of any class, differ | `uncertainty` |
| `cal_deepcore` | the last, always | the same, symmetric, of images that are chosen from together | `uncertainty` |

`grand` is the mean over seeds of |grad_theta CE|_2 by all parameters (Paul et al. 2021, equation 4); DeepCore takes the
last layer, after 40 epochs.

K of `cad` is such that K passes over the N train images are as much work as the judge's protocol does on the chosen
images: K N = epochs |S|. Its networks are trained by the recipe of HL for exactly K epochs, rounded. Where K is smaller
than the windows need, the method is refused, as it is not defined there: 10 images of each class of CIFAR-10 have a K
of 0.67. An `epoch` takes the place of K, which deviates from the paper; so does `compute_aligned` off, which takes the
first K epochs of `recording`, an early checkpoint of a longer training (paper 003, Table 11: 30.95 against 40.21).

| `keep` | what is kept | the paper's |
|---|---|---|
| `hardest`, `easiest` | one end | most scores; `easiest` where few images are kept (Sorscher et al. 2022) |
| `window` | a run of the order by difficulty: `start` 0 is the hardest, 1 the easiest | EL2N-Best is the best `start` |
| `strata` | equal shares of 50 strata of difficulty | CCS: `score` aum, `drop` 0.3 where 90 % are pruned |
| `beta` | a draw by score and mean probability | DUAL: `score` dual |
| `graph` | the hardest in turn, which lower their neighbours | D2: `score` forgetting, `drop` 0.4, `neighbours` 5 |

With `cal` the authors keep the `hardest`, and with `cal_deepcore` DeepCore keeps the `easiest`. EL2N-Best slides a
window over all starts and keeps the best; do so by runs that differ in `start`, and compare their validation
accuracies. Each rule applies to each class, or to all images together with `balanced` off. With `drop` the hardest of
all images, by `drop_by`, are left out first, and the graph of D2 has the others alone, as the public codes of CCS and
D2 have it. Images of the same difficulty are in an order that the seed draws. Neighbours are those of the first
network's last features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from kip.config import to_dict, value
from kip.errors import ConfigError
from kip.methods.problem import Problem
from kip.methods.selection import budgets, dynamics, uncertainty
from kip.methods.selection.dynamics import ThatVaries
from kip.methods.selection.neighbours import Neighbours, nearest
from kip.methods.selection.selection import Choice, Group, Selection, by_class
from kip.rng import generator
from kip.storage.artefacts import Store
from kip.training.records import Recording, Records, compute_aligned, record

Score = Literal[
    "forgetting", "aum", "dyn_unc", "dual", "cad", "el2n", "el2n_sl", "grand", "entropy", "least_confidence", "margin",
    "cal", "cal_deepcore",
]  # fmt: skip
DropBy = Literal["aum", "forgetting", "el2n", "entropy", "least_confidence", "margin"]
Keep = Literal["hardest", "easiest", "window", "strata", "beta", "graph"]
EARLY = 10
"""The epoch of `el2n`, `el2n_sl` and `grand` where none is given."""
DUAL_EPOCHS = 30
"""The epochs of `dual` where none are given."""
TEACHER = Recording(epochs=60)
"""The teacher of `el2n_sl`: the recipe of the other networks, and twice their epochs."""


@value
class Pruning(Selection):
    """Choose natural images by how hard they are to networks that learn: EL2N, forgetting, AUM, CCS, DUAL, D2, ..."""

    score: Score = "el2n"
    """The difficulty of an image; see the table of `kip.methods.selection.pruning`."""
    keep: Keep = "hardest"
    """Which difficulties are kept; see the other table there."""
    recording: Recording = Recording()
    """The networks, as they learn the train set. Of `cad`, which trains them in its own way, this has the network and
    the seeds alone."""
    epoch: Annotated[int, Field(ge=1)] | None = None
    """The epoch that a score looks at, or the last one that it counts; None: see the table."""
    window: Annotated[int, Field(ge=2)] | None = None
    """Epochs of a window of `dyn_unc`, `dual` and `cad`; None: 10, and for `cad` all but the last `windows`."""
    windows: Annotated[int, Field(ge=1)] = 2
    """Windows of `cad`."""
    varies: ThatVaries = "probability"
    """Of `cad`: the probability of the true class, or the error of all of them."""
    compute_aligned: bool = True
    """Whether the networks of `cad` are trained for exactly K epochs by the recipe of HL, as the paper has it. False
    takes the first K epochs of `recording`."""
    temperature: Annotated[float, Field(gt=0)] = 20.0
    """The temperature of the probabilities and of the soft labels of `el2n_sl`."""
    teacher: Recording = TEACHER
    """The networks whose mean probabilities are the soft labels of `el2n_sl`; they are other draws than the ones that
    are scored."""
    start: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Of `window`: where it begins, from 0, the hardest, to 1, the easiest."""
    drop: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The fraction of all train images, the hardest by `drop_by`, that is left out before any are chosen; each class
    keeps its budget. CCS has 0.3 and D2 has 0.4 where 90 % are pruned."""
    drop_by: DropBy = "aum"
    """The score by which `drop` leaves images out, at the epoch where the table has it without `epoch`."""
    neighbours: Annotated[int, Field(ge=1)] = 10
    """Neighbours of an image in `cal`, `cal_deepcore` and `graph`. D2 has 5 where 90 % are pruned."""
    gamma: Annotated[float, Field(gt=0)] = 0.1
    """Of `graph`: the smaller, the more a chosen image lowers its neighbours."""
    name: Literal["pruning"] = "pruning"

    def __post_init__(self) -> None:
        if self.keep == "beta" and self.score != "dual":
            raise ConfigError("score with keep='beta'", got=repr(self.score), expected="'dual'")
        if self.epoch is not None and self.score in ("cal", "cal_deepcore"):
            raise ConfigError(
                f"epoch with score={self.score!r}", got=self.epoch, expected="None, for it takes the last"
            )
        if self.drop_by != "aum" and not self.drop:
            raise ConfigError("drop_by", got=f"{self.drop_by!r} with drop=0", expected="'aum', or drop above 0")
        if self.teacher != TEACHER and self.score != "el2n_sl":
            raise ConfigError("teacher", got=f"one, with score={self.score!r}", expected="the default")
        if self.score == "cad":
            self._check_cad()
        elif not self.compute_aligned:
            raise ConfigError(
                "compute_aligned", got=f"False with score={self.score!r}", expected="True, or score='cad'"
            )
        trains_itself = self.score == "cad" and self.compute_aligned
        if self.epoch is not None and self.epoch > self.recording.epochs and not trains_itself:
            raise ConfigError("epoch", got=self.epoch, expected=f"at most recording.epochs, {self.recording.epochs}")
        if self.score in ("dyn_unc", "dual") and self._window > self._epoch:
            raise ConfigError(
                f"window of {self.score}",
                got=f"{self._window} epochs",
                expected=f"at most {self._epoch}, the epochs that count",
                remedy="Record more epochs (recording.epochs), or make windows shorter (window).",
            )

    def _check_cad(self) -> None:
        plain = Recording(self.recording.network, seeds=self.recording.seeds)
        if self.compute_aligned and self.recording != plain:
            raise ConfigError(
                "recording of cad",
                got=_differences(self.recording, plain),
                expected="its network and seeds alone, for its networks learn K epochs by the recipe of HL",
                remedy="Set the method's compute_aligned off to take the first K epochs of that recording.",
            )
        if self.epoch is not None:
            self._check_windows(self.epoch, f"epoch={self.epoch}")

    def _check_windows(self, aligned: float, got: str) -> None:
        """Refuse a K that is too small for the windows of `cad`."""
        window = self.window or 2
        if round(aligned) < window + self.windows:
            raise ConfigError(
                "K of cad, the epochs that it is compute-aligned with",
                got=got,
                expected=f"at least {window + self.windows}, for {self.windows} windows of {window} epochs before K",
                remedy="CAD-Prune is not defined there. Choose more images, train longer on them (protocol.epochs), or "
                "set the method's `epoch`, which deviates from the paper.",
            )

    @property
    def label(self) -> str:
        """The score, what is kept, and the network that judges."""
        return f"{self.score}, {self.keep} ({self.network.label})"

    @property
    def _epoch(self) -> int:
        """The epoch that the score looks at, or the last one that it counts; not for `cad`."""
        return self.epoch or default_epoch(self.score, self.recording.epochs)

    @property
    def _window(self) -> int:
        return self.window or 10

    def choose(self, problem: Problem, store: Store) -> Choice:
        """Return the choice.

        Raises:
            ConfigError: if K of `cad` is smaller than its windows need, or larger than the epochs of a recording that
                is not compute-aligned; if there are no more images than `neighbours` to choose from.
            NonFiniteError: if a network diverges.
            OutputError, DataError: if the recording cannot be kept or read.
        """
        groups = self.groups(problem)
        aligned = self._aligned(problem) if self.score == "cad" else None
        self._check_neighbours(groups)
        records = self._records(problem, store, aligned)
        teacher = self._teacher(problem, store) if self.score == "el2n_sl" else None
        difficulty = self.difficulty(records, groups, aligned, teacher)
        probability = None
        if self.keep == "beta":
            probability = records.scores(lambda f, y: dynamics.mean_probability(f, y, self._epoch))
        if self.drop:
            of_drop = records.scores(self._of_logits(self.drop_by, default_epoch(self.drop_by, records.epochs)))
            groups = budgets.without_hardest(of_drop, groups, generator(problem.seed, "drop"), drop=self.drop)
            self._check_neighbours(groups)
        indices = []
        for number, (members, budget) in enumerate(groups):
            draw = generator(problem.seed, "pruning", number)
            near = nearest(records.features(members), self.neighbours) if self.keep == "graph" else None
            p = None if probability is None else probability[members]
            indices.append(members[self._kept(difficulty[members], budget, draw, near, p)])
        chosen = by_class(np.concatenate(indices), problem.labels)
        return Choice(chosen, np.ones(len(chosen), np.float32))

    def _kept(
        self,
        difficulty: np.ndarray,
        budget: int,
        draw: np.random.Generator,
        near: Neighbours | None,
        probability: np.ndarray | None,
    ) -> np.ndarray:
        """Return which images of a group are kept."""
        if near is not None:
            return budgets.graph(difficulty, near, budget, draw, gamma=self.gamma)
        if probability is not None:
            return budgets.beta(difficulty, probability, budget, draw)
        if self.keep == "window":
            return budgets.window(difficulty, budget, draw, start=self.start)
        if self.keep == "strata":
            return budgets.strata(difficulty, budget, draw)
        return (budgets.easiest if self.keep == "easiest" else budgets.hardest)(difficulty, budget, draw)

    def difficulty(
        self, records: Records, groups: list[Group], aligned: int | None = None, teacher: Records | None = None
    ) -> np.ndarray:
        """Return the score of every train image, (N,) float64, the hardest the highest.

        Args:
            records: of the train set.
            groups: the images that are chosen from together, for `cal_deepcore`.
            aligned: K of `cad`.
            teacher: records of the teacher of `el2n_sl`.
        """
        if self.score == "grand":
            return records.gradient_norms()[:, 0].mean(0).astype(np.float64)
        if self.score == "cal":
            return uncertainty.cal(records.last(), nearest(records.features(), self.neighbours).indices)
        if self.score == "cal_deepcore":
            scores = np.empty(len(records.classes))
            for members, _ in groups:
                near = nearest(records.features(members), self.neighbours).indices
                scores[members] = uncertainty.cal_deepcore(records.last(members), near)
            return scores
        if self.score == "el2n_sl":
            return records.scores(lambda f, y, q: uncertainty.el2n_sl(f, q, self.temperature, self._epoch), teacher)
        if self.score == "cad":
            assert aligned is not None
            window = self.window or aligned - self.windows
            return records.scores(lambda f, y: dynamics.cad(f, y, aligned, window, self.windows, self.varies))
        return records.scores(self._of_logits(self.score, self._epoch))

    def _of_logits(self, score: str, epoch: int) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """Return a score that needs logits and classes alone."""
        return {
            "forgetting": lambda f, y: dynamics.forgetting(f, y, epoch),
            "aum": lambda f, y: dynamics.aum(f, y, epoch),
            "dyn_unc": lambda f, y: dynamics.dyn_unc(f, y, self._window, epoch),
            "dual": lambda f, y: dynamics.dual(f, y, self._window, epoch),
            "el2n": lambda f, y: uncertainty.el2n(f, y, epoch),
            "entropy": lambda f, y: uncertainty.entropy(f, epoch),
            "least_confidence": lambda f, y: uncertainty.least_confidence(f, epoch),
            "margin": lambda f, y: uncertainty.margin(f, epoch),
        }[score]

    def _records(self, problem: Problem, store: Store, aligned: int | None) -> Records:
        recording = self.recording
        if aligned is not None and self.compute_aligned:
            recording = compute_aligned(aligned, network=recording.network, seeds=recording.seeds)
        return record(
            recording, self.network, problem.inputs, problem.labels, problem.num_classes, seed=problem.seed,
            mirror_keeps_class=problem.mirror_keeps_class, store=store,
            gradients_after=(self._epoch,) if self.score == "grand" else (),
        )  # fmt: skip

    def _teacher(self, problem: Problem, store: Store) -> Records:
        return record(
            self.teacher, self.network, problem.inputs, problem.labels, problem.num_classes, seed=problem.seed,
            mirror_keeps_class=problem.mirror_keeps_class, store=store, purpose="teacher",
        )  # fmt: skip

    def _check_neighbours(self, groups: list[Group]) -> None:
        """Refuse more neighbours than the images of a group have."""
        sizes = [len(members) for members, _ in groups]
        in_groups = self.score == "cal_deepcore" or self.keep == "graph"
        smallest = min(sizes) if in_groups else sum(sizes)
        if (in_groups or self.score == "cal") and self.neighbours >= smallest:
            expected = f"fewer than the images that are chosen from, {smallest}"
            raise ConfigError("neighbours", got=self.neighbours, expected=expected)

    def _aligned(self, problem: Problem) -> int:
        """Return K of `cad`."""
        count, chosen = len(problem.labels), int(self.budgets(problem).sum())
        epochs = self.protocol.epochs
        aligned = self.epoch or dynamics.aligned_epochs(count, chosen, epochs)
        work = f"{aligned:.2g}: {epochs} epochs of {chosen} chosen images are as much work as that on {count} images"
        self._check_windows(aligned, str(aligned) if self.epoch else work)
        if not self.compute_aligned and round(aligned) > self.recording.epochs:
            raise ConfigError(
                "recording.epochs",
                got=self.recording.epochs,
                expected=f"at least {round(aligned)}, the epochs that cad is compute-aligned with",
                remedy="Or set the method's `epoch` lower.",
            )
        return round(aligned)


def default_epoch(score: str, epochs: int) -> int:
    """Return the epoch that a score looks at, or the last one that it counts, where a recording has so many epochs."""
    early = {"el2n": EARLY, "el2n_sl": EARLY, "grand": EARLY, "dual": DUAL_EPOCHS}
    return min(early.get(score, epochs), epochs)


def _differences(recording: Recording, plain: Recording) -> str:
    """Return the fields of a recording that differ from another's, for an error."""
    given, default = to_dict(recording), to_dict(plain)
    return ", ".join(f"{name}={setting}" for name, setting in given.items() if setting != default[name])
