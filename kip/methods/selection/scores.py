"""Scores of the difficulty of images to networks that learn the train set: frozen values that rules of pruning take.

`of(task, groups)` records the networks (`kip.training.records`; recordings are shared between runs), and returns the
difficulty of every train image, the hardest the highest. The formulas are computed by the pure functions of
`kip.methods.selection.uncertainty`, for scores of one epoch, and `kip.methods.selection.dynamics`, for those of many.
"""

from __future__ import annotations

import abc
from typing import Annotated, Literal, NamedTuple, Union

import numpy as np
from pydantic import Field
from typing_extensions import final

from kip.config import value
from kip.errors import ConfigError
from kip.methods.selection import dynamics, uncertainty
from kip.methods.selection.dynamics import ThatVaries
from kip.methods.selection.neighbours import nearest
from kip.methods.selection.task import Group, Task
from kip.networks.model import Network
from kip.training.records import Recording, Records, compute_aligned

EARLY = 10
"""The epoch of `EL2N`, `EL2NSL` and `GraNd` where none is given."""
DUAL_EPOCHS = 30
"""The epochs of `DUALScore` where none are given."""
TEACHER = Recording(epochs=60)
"""The teacher of `EL2NSL`: the recipe of the other networks, and twice their epochs."""
Epoch = Annotated[int, Field(ge=1)]


class Scored(NamedTuple):
    """The score of all train images.

    Attributes:
        difficulty: the score of every train image, (N,) float64, the hardest the highest.
        records: the records that the score is computed from.
    """

    difficulty: np.ndarray
    records: Records


@value
class OfRecords(abc.ABC):
    """A score that takes the logits of a recording alone."""

    recording: Recording = Recording()
    """The networks that learn the train set, and their training."""

    def of(self, task: Task, groups: list[Group]) -> Scored:
        """Return the difficulty of every train image."""
        records = task.records_of(self.recording)
        return Scored(self.difficulty(records), records)

    @abc.abstractmethod
    def difficulty(self, records: Records) -> np.ndarray:
        """Return the difficulty of every recorded image, (N,) float64."""


@final
@value
class EL2N(OfRecords):
    """EL2N: the error of the probabilities early in training, |p - y|_2 with y the one-hot class.

    The score is a mean over the networks of the recording; the paper has 10 of them. CCS's public code sums epochs 0 to
    9, and DUAL's takes epoch 20 of one network.

    Reference: Paul, Ganguli, Dziugaite 2021, "Deep Learning on a Data Diet", definition 2.3.
    """

    epoch: Epoch | None = None
    """The epoch after which probabilities are taken. None means 10, or the last one of a shorter recording."""
    kind: Literal["el2n"] = "el2n"

    def __post_init__(self) -> None:
        check_epoch(self.epoch, self.recording)

    def difficulty(self, records: Records) -> np.ndarray:
        """Return the difficulty of every recorded image, (N,) float64."""
        epoch = self.epoch or min(EARLY, records.epochs)
        return records.scores(lambda f, y: uncertainty.el2n(f, y, epoch))


@final
@value
class EL2NSL:
    """EL2N under soft labels: the distance of the probabilities from those of a separate teacher.

        |softmax(f / T) - q|_2 / T,      q the teacher's mean probabilities at the temperature T

    It is the length of the gradient of KL(q || softmax(f / T)) with respect to the logits f. The teacher is another
    draw than the networks that are scored.

    Reference: "Rethinking Dataset Distillation: Hard Truths About Soft Labels", supplement, Lemma 1.
    """

    recording: Recording = Recording()
    """The networks that are scored, as they learn the train set."""
    teacher: Recording = TEACHER
    """The networks whose mean probabilities are the soft labels, as they learn the train set."""
    temperature: Annotated[float, Field(gt=0)] = 20.0
    """The temperature T of the probabilities and of the soft labels."""
    epoch: Epoch | None = None
    """The epoch after which probabilities are taken. None means 10, or the last one of a shorter recording."""
    kind: Literal["el2n_sl"] = "el2n_sl"

    def __post_init__(self) -> None:
        check_epoch(self.epoch, self.recording)

    def of(self, task: Task, groups: list[Group]) -> Scored:
        """Return the difficulty of every train image."""
        records, teacher = task.records_of(self.recording), task.records_of(self.teacher, purpose="teacher")
        epoch = self.epoch or min(EARLY, records.epochs)
        score = records.scores(lambda f, y, q: uncertainty.el2n_sl(f, q, self.temperature, epoch), teacher)
        return Scored(score, records)


@final
@value
class GraNd:
    """GraNd: the length of an image's gradient of cross-entropy with respect to all parameters, early in training.

    The score is a mean over the networks of the recording; the paper has 10 of them. DeepCore's public code takes the
    last layer alone, after 40 epochs. The recording is not shared with other scores, for it has the gradients in it.

    Reference: Paul, Ganguli, Dziugaite 2021, "Deep Learning on a Data Diet", equation 4.
    """

    recording: Recording = Recording()
    """The networks that learn the train set, and their training."""
    epoch: Epoch | None = None
    """The epoch after which gradients are taken. None means 10, or the last one of a shorter recording."""
    kind: Literal["grand"] = "grand"

    def __post_init__(self) -> None:
        check_epoch(self.epoch, self.recording)

    def of(self, task: Task, groups: list[Group]) -> Scored:
        """Return the difficulty of every train image."""
        epoch = self.epoch or min(EARLY, self.recording.epochs)
        records = task.records_of(self.recording, gradients_after=(epoch,))
        return Scored(records.gradient_norms()[:, 0].mean(0).astype(np.float64), records)


@final
@value
class Entropy(OfRecords):
    """Entropy of the probabilities, -sum_j p_j log p_j, in nats: high where a network is unsure.

    Reference: Coleman et al. 2020, "Selection via Proxy".
    """

    epoch: Epoch | None = None
    """The epoch after which probabilities are taken. None means the last one of the recording."""
    kind: Literal["entropy"] = "entropy"

    def __post_init__(self) -> None:
        check_epoch(self.epoch, self.recording)

    def difficulty(self, records: Records) -> np.ndarray:
        """Return the difficulty of every recorded image, (N,) float64."""
        return records.scores(lambda f, y: uncertainty.entropy(f, self.epoch or records.epochs))


@final
@value
class LeastConfidence(OfRecords):
    """Least confidence, 1 - max_j p_j: high where a network is unsure. DeepCore takes the largest logit instead.

    Reference: Coleman et al. 2020, "Selection via Proxy".
    """

    epoch: Epoch | None = None
    """The epoch after which probabilities are taken. None means the last one of the recording."""
    kind: Literal["least_confidence"] = "least_confidence"

    def __post_init__(self) -> None:
        check_epoch(self.epoch, self.recording)

    def difficulty(self, records: Records) -> np.ndarray:
        """Return the difficulty of every recorded image, (N,) float64."""
        return records.scores(lambda f, y: uncertainty.least_confidence(f, self.epoch or records.epochs))


@final
@value
class Margin(OfRecords):
    """Margin, 1 - (largest p_j - second largest p_j): high where a network is unsure.

    Reference: Coleman et al. 2020, "Selection via Proxy".
    """

    epoch: Epoch | None = None
    """The epoch after which probabilities are taken. None means the last one of the recording."""
    kind: Literal["margin"] = "margin"

    def __post_init__(self) -> None:
        check_epoch(self.epoch, self.recording)

    def difficulty(self, records: Records) -> np.ndarray:
        """Return the difficulty of every recorded image, (N,) float64."""
        return records.scores(lambda f, y: uncertainty.margin(f, self.epoch or records.epochs))


@final
@value
class CAL:
    """CAL: predictions of the images near by, of any class, differ from an image's own.

        mean over the k nearest i' of KL(p_i' || p_i),      p of the first network after its last epoch

    Neighbours are those of the network's last features. The authors choose the `Hardest`.

    Reference: Margatina et al. 2021, "Active Learning by Acquiring Contrastive Examples", and their public code.
    """

    recording: Recording = Recording()
    """The network that learns the train set, and its training."""
    neighbours: Annotated[int, Field(ge=1)] = 10
    """The number k of neighbours of an image."""
    kind: Literal["cal"] = "cal"

    def of(self, task: Task, groups: list[Group]) -> Scored:
        """Return the difficulty of every train image."""
        check_neighbours(self.neighbours, len(task.problem.labels))
        records = task.records_of(self.recording)
        return Scored(uncertainty.cal(records.last(), nearest(records.features(), self.neighbours).indices), records)


@final
@value
class CALDeepCore:
    """CAL as DeepCore has it: symmetric, and among the images that are chosen from together.

        mean over the k nearest i' of (KL(p_i || p_i') + KL(p_i' || p_i)) / 2

    DeepCore chooses the `Easiest`. Its neighbours are in the space of a network that learned ImageNet; here they are
    those of the last features of the recorded network.

    Reference: Guo, Zhao, Bai 2022, "DeepCore", public code.
    """

    recording: Recording = Recording()
    """The network that learns the train set, and its training."""
    neighbours: Annotated[int, Field(ge=1)] = 10
    """The number k of neighbours of an image."""
    kind: Literal["cal_deepcore"] = "cal_deepcore"

    def of(self, task: Task, groups: list[Group]) -> Scored:
        """Return the difficulty of every train image."""
        check_neighbours(self.neighbours, min(len(members) for members, _ in groups))
        records = task.records_of(self.recording)
        difficulty = np.empty(len(records.classes))
        for members, _ in groups:
            near = nearest(records.features(members), self.neighbours).indices
            difficulty[members] = uncertainty.cal_deepcore(records.last(members), near)
        return Scored(difficulty, records)


@final
@value
class Forgetting(OfRecords):
    """Forgetting: the number of epochs at which a right image is wrong after the next one.

    An image that is never learned is the hardest, with as many as there are epochs. DeepCore, CCS and D2 give it 0 in
    their public code, as to one that is never forgotten.

    Reference: Toneva et al. 2019, "An Empirical Study of Example Forgetting during Deep Neural Network Learning".
    """

    last_epoch: Epoch | None = None
    """The last epoch that counts. None means the last one of the recording."""
    kind: Literal["forgetting"] = "forgetting"

    def __post_init__(self) -> None:
        check_epoch(self.last_epoch, self.recording)

    def difficulty(self, records: Records) -> np.ndarray:
        """Return the difficulty of every recorded image, (N,) float64."""
        return records.scores(lambda f, y: dynamics.forgetting(f, y, self.last_epoch))


@final
@value
class AUM(OfRecords):
    """AUM, the area under the margin: minus the mean over epochs of the true logit's lead over the largest other one.

    CCS and D2 take margins of probabilities, in batches as they are trained on, and DUAL keeps the last epoch only.

    Reference: Pleiss et al. 2020, "Identifying Mislabeled Data using the Area Under the Margin Ranking".
    """

    last_epoch: Epoch | None = None
    """The last epoch that counts. None means the last one of the recording."""
    kind: Literal["aum"] = "aum"

    def __post_init__(self) -> None:
        check_epoch(self.last_epoch, self.recording)

    def difficulty(self, records: Records) -> np.ndarray:
        """Return the difficulty of every recorded image, (N,) float64."""
        return records.scores(lambda f, y: dynamics.aum(f, y, self.last_epoch))


@final
@value
class DynUnc(OfRecords):
    """Dyn-Unc: the deviation of the true class's probability within a window of epochs, the mean over all windows.

    Deviations have the divisor J - 1. The public code leaves out the last window, and multiplies by 10, which orders
    nothing. Published is the choice of the `Hardest`.

    Reference: He et al. 2024, "Large-scale Dataset Pruning with Dynamic Uncertainty".
    """

    window: Annotated[int, Field(ge=2)] = 10
    """The number J of epochs in a window."""
    last_epoch: Epoch | None = None
    """The last epoch that counts. None means the last one of the recording."""
    kind: Literal["dyn_unc"] = "dyn_unc"

    def __post_init__(self) -> None:
        check_epoch(self.last_epoch, self.recording)
        check_window(self.kind, self.window, self.last_epoch or self.recording.epochs)

    def difficulty(self, records: Records) -> np.ndarray:
        """Return the difficulty of every recorded image, (N,) float64."""
        return records.scores(lambda f, y: dynamics.dyn_unc(f, y, self.window, self.last_epoch))


@final
@value
class DUALScore(OfRecords):
    """The score of DUAL: the deviation of the true class's probability in a window of epochs, times 1 - its mean.

    It is the mean over all windows, high where the probability moves and is low. Deviations have the divisor J - 1. The
    public code multiplies them by 10, which orders nothing. The rule `DUAL` draws by this score.

    Reference: Cho et al. 2025, "Lightweight Dataset Pruning without Full Training via Example Difficulty and Prediction
    Uncertainty" (DUAL).
    """

    window: Annotated[int, Field(ge=2)] = 10
    """The number J of epochs in a window."""
    last_epoch: Epoch | None = None
    """The last epoch that counts. None means 30, or the last one of a shorter recording."""
    kind: Literal["dual"] = "dual"

    def __post_init__(self) -> None:
        check_epoch(self.last_epoch, self.recording)
        check_window(self.kind, self.window, self.last_counted)

    @property
    def last_counted(self) -> int:
        """The last epoch that counts."""
        return self.last_epoch or min(DUAL_EPOCHS, self.recording.epochs)

    def difficulty(self, records: Records) -> np.ndarray:
        """Return the difficulty of every recorded image, (N,) float64."""
        return records.scores(lambda f, y: dynamics.dual(f, y, self.window, self.last_counted))

    def probability(self, records: Records) -> np.ndarray:
        """Return the mean over the epochs that count of each image's probability of the true class, (N,) float64."""
        return records.scores(lambda f, y: dynamics.mean_probability(f, y, self.last_counted))


@final
@value
class CAD:
    """CAD-Prune: the probability of the true class moves in the last epochs of a compute-aligned training.

    The networks are trained for exactly K epochs by the recipe of the protocol HL, as much work as the judge's training
    on the chosen images:

        K N = epochs |S|,      N train images, |S| chosen ones, `epochs` of the judge's protocol, K rounded.

    The score is the mean, over the last W windows of J epochs before K, of the deviation in the window (divisor J - 1);
    see `kip.methods.selection.dynamics.cad`. Where K is smaller than the windows need, the score is not defined, and
    refused: 10 images of each class of CIFAR-10 have a K of 0.67.

    Reference: "Rethinking Dataset Distillation: Hard Truths About Soft Labels"; a public reproduction, andriotis/ca2d,
    has EL2N in place of the probability.
    """

    network: Network | None = None
    """The network that learns the train set. None means the one that judges the set."""
    seeds: Annotated[int, Field(ge=1)] = 1
    """The number of networks, of which the score is a mean."""
    epochs: Epoch | None = None
    """The number K of epochs. None means the compute-aligned one; any other deviates from the paper."""
    window: Annotated[int, Field(ge=2)] | None = None
    """The number J of epochs in a window. None means K - `windows`, so that windows cover epochs 1 to K - 1."""
    windows: Annotated[int, Field(ge=1)] = 2
    """The number W of windows."""
    varies: ThatVaries = "probability"
    """The quantity whose deviation is taken: the `probability` of the true class, or the `el2n` error of them all."""
    kind: Literal["cad"] = "cad"

    def __post_init__(self) -> None:
        if self.epochs is not None:
            check_aligned(self.epochs, self.window, self.windows, f"epochs={self.epochs}")

    def of(self, task: Task, groups: list[Group]) -> Scored:
        """Return the difficulty of every train image.

        Raises:
            ConfigError: if K is smaller than the windows need.
        """
        aligned = aligned_epochs(task, self.epochs, self.window, self.windows)
        records = task.records_of(compute_aligned(aligned, network=self.network, seeds=self.seeds))
        return Scored(deviation(records, aligned, self.window, self.windows, self.varies), records)


@final
@value
class EarlyCAD:
    """CAD-Prune's score of the first K epochs of a longer training, an early checkpoint, which deviates from the paper.

    See `CAD` for the formula. Paper 003, Table 11: 30.95 % against 40.21 % of the compute-aligned training.
    """

    recording: Recording = Recording()
    """The networks that learn the train set, and their training."""
    epochs: Epoch | None = None
    """The number K of epochs. None means the compute-aligned one."""
    window: Annotated[int, Field(ge=2)] | None = None
    """The number J of epochs in a window. None means K - `windows`, so that windows cover epochs 1 to K - 1."""
    windows: Annotated[int, Field(ge=1)] = 2
    """The number W of windows."""
    varies: ThatVaries = "probability"
    """The quantity whose deviation is taken: the `probability` of the true class, or the `el2n` error of them all."""
    kind: Literal["early_cad"] = "early_cad"

    def __post_init__(self) -> None:
        check_epoch(self.epochs, self.recording)
        if self.epochs is not None:
            check_aligned(self.epochs, self.window, self.windows, f"epochs={self.epochs}")

    def of(self, task: Task, groups: list[Group]) -> Scored:
        """Return the difficulty of every train image.

        Raises:
            ConfigError: if K is smaller than the windows need, or larger than the epochs of the recording.
        """
        aligned = aligned_epochs(task, self.epochs, self.window, self.windows)
        if aligned > self.recording.epochs:
            raise ConfigError(
                "recording.epochs",
                got=self.recording.epochs,
                expected=f"at least {aligned}, the epochs that cad is compute-aligned with",
                remedy="Record more epochs, or give the score fewer (epochs).",
            )
        records = task.records_of(self.recording)
        return Scored(deviation(records, aligned, self.window, self.windows, self.varies), records)


Score = Annotated[
    Union[
        EL2N,
        EL2NSL,
        GraNd,
        Entropy,
        LeastConfidence,
        Margin,
        CAL,
        CALDeepCore,
        Forgetting,
        AUM,
        DynUnc,
        DUALScore,
        CAD,
        EarlyCAD,
    ],
    Field(discriminator="kind"),
]
"""A score of the difficulty of an image."""


def check_epoch(epoch: int | None, recording: Recording) -> None:
    """Refuse an epoch that is not recorded.

    Raises:
        ConfigError: if it is later than the last one.
    """
    if epoch is not None and epoch > recording.epochs:
        raise ConfigError("epoch of the score", got=epoch, expected=f"at most recording.epochs, {recording.epochs}")


def check_window(kind: str, window: int, epochs: int) -> None:
    """Refuse windows that are longer than the epochs that count.

    Raises:
        ConfigError: if they are.
    """
    if window > epochs:
        raise ConfigError(
            f"window of {kind}",
            got=f"{window} epochs",
            expected=f"at most {epochs}, the epochs that count",
            remedy="Record more epochs (recording.epochs), or make windows shorter (window).",
        )


def check_neighbours(neighbours: int, images: int) -> None:
    """Refuse more neighbours of an image than there are other images.

    Raises:
        ConfigError: if there are not enough.
    """
    if neighbours >= images:
        raise ConfigError(
            "neighbours", got=neighbours, expected=f"fewer than the images that are chosen from, {images}"
        )


def check_aligned(epochs: float, window: int | None, windows: int, got: str) -> None:
    """Refuse a K that is too small for the windows of `CAD`.

    Raises:
        ConfigError: if it is.
    """
    window = window or 2
    if round(epochs) < window + windows:
        raise ConfigError(
            "K of cad, the epochs that it is compute-aligned with",
            got=got,
            expected=f"at least {window + windows}, for {windows} windows of {window} epochs before K",
            remedy="CAD-Prune is not defined there. Choose more images, train longer on them (protocol.epochs), or "
            "give the score its `epochs`, which deviates from the paper.",
        )


def aligned_epochs(task: Task, epochs: int | None, window: int | None, windows: int) -> int:
    """Return K: the given one, or the one whose training is as much work as the judge's on the chosen images.

    Raises:
        ConfigError: if it is smaller than the windows need.
    """
    if epochs is not None:
        return epochs
    count, chosen = len(task.problem.labels), int(task.budgets.sum())
    aligned = dynamics.aligned_epochs(count, chosen, task.epochs)
    check_aligned(
        aligned,
        window,
        windows,
        f"{aligned:.2g}: {task.epochs} epochs of {chosen} chosen images are as much work as that on {count} images",
    )
    return round(aligned)


def deviation(records: Records, epochs: int, window: int | None, windows: int, varies: ThatVaries) -> np.ndarray:
    """Return the score of CAD-Prune of every recorded image, (N,) float64; see `kip.methods.selection.dynamics.cad`."""
    length = window or epochs - windows
    return records.scores(lambda f, y: dynamics.cad(f, y, epochs, length, windows, varies))
