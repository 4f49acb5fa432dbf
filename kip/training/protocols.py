"""Named protocols of training a network on a distilled set: the evaluations of the literature, as values.

| name | labels | loss | optimiser | paper |
|---|---|---|---|---|
| HL | the set's classes | cross-entropy | SGD 0.01, momentum 0.9, decay 5e-4, a tenth from half on | 003, small scale |
| HL-plain | the set's classes | as HL | as HL, without augmentation | Li et al. 2025, DD-Ranking |
| SL | a teacher's logits on the images, fixed | KL at T = 20, without T^2 | AdamW 1e-3, cosine | 003, small scale |
| SL+KD | a teacher's logits on every augmented view | as SL | as SL | 003 |
| FKD | stored logits of every view of SL+KD | as SL | as SL | Shen and Xing 2022 |
| OWN | the set's own labels, learned or not | squared error | as HL | none: the loss of the set's own labels |
| DSA | the set's classes | cross-entropy | the public loop of DC and DSA, 1000 epochs | Zhao and Bilen 2021 |
| DC | the set's classes | cross-entropy | the same, 300 epochs, no augmentation | Zhao, Mopuri, Bilen 2021 |
| DC-MNIST | the set's classes | cross-entropy | the same, 1000 epochs, DC's augmentation of MNIST | Zhao et al. 2021 |
| DC-BENCH | the set's classes | cross-entropy | as DSA | Cui et al. 2022 |
| MTT | the set's classes | cross-entropy | as DSA, at the set's own learned rate | Cazenavette et al. 2022 |
| SRe2L | a teacher's logits on every view | KL at T = 30 | AdamW 1e-3, cosine, 400 epochs of 128 | SRe2L, CDA, DWA |
| RDED | a teacher's logits on every view | KL at T = 20 | AdamW 1e-3, to its half, 300 epochs, `for_set` | RDED |
| RDED-tiles | as RDED | as RDED | as RDED, for images that are made of four | RDED |
| G-VBSM | stored logits of every view | `mean` + 0.15 cross-entropy | SGD 0.1, cosine, 1000 epochs of 64 | G-VBSM |
| EDC | a teacher's logits on every view | `mean` + 0.025 cross-entropy | AdamW 1e-3, to its half, 1000 of 10 | EDC |
| FADRM | stored logits of every view | KL at T = 20 | AdamW 1e-3, cosine, 1000 epochs of 16 | FADRM |
| HL-large | the set's classes | cross-entropy | SGD 0.5, cosine, 200 epochs, `for_set` | 003, ImageNet-1K |
| SL-large | a teacher's logits on the images, fixed | as SL | AdamW 1e-3, 5 rising epochs, cosine, 200 of 128 | 003 |
| SL+KD-large | stored logits of every view | as SL | as SL-large | 003, ImageNet-1K |

The first eleven train in batches of 256, the first six for 300 epochs, with DSA's augmentation unless it is said
otherwise: one operation a batch. Hard labels are the argmax of learned ones. Nothing is searched, and the last
parameters are tested. `dataclasses.replace(PROTOCOLS[...], epochs=...)` is for smaller machines. No protocol flips
images where a mirror image has another class.

Every epoch sees the whole set: its last batch is the rest of it, as the loaders of all these public codes give it.

The batch size and the rate of RDED, and the batch size of HL-large, depend on the set: `for_set` returns them.

AdamW decays by 0.01. Views of SRe2L are crops of the padded image, flipped, and mixed by mixup; those of RDED are
flipped and mixed by CutMix (at 32x32 its crops have the whole image's size); those of the others below are random
resized crops, flipped, and mixed by CutMix where labels are of every view. Stored logits are float16, made once for all
networks (`kip.training.relabel`); they count as part of the set. The public code of G-VBSM and EDC takes the
cross-entropy at the class of the image that another was pasted into; here it is at the classes of both, in their
shares. EDC tests the moving average of the student's variables, with a decay of 0.99.

The public loop of DC and DSA: SGD 0.01, momentum 0.9, decay 5e-4; for E epochs it makes E + 1 passes, the last batch of
a pass is the rest of the set, and after pass E // 2 + 2 a new optimiser goes on with a tenth of the rate.

References: "Rethinking Dataset Distillation: Hard Truths About Soft Labels", Table 1 (its section 2); Zhao, Mopuri,
Bilen 2021, "Dataset Condensation with Gradient Matching"; Zhao and Bilen 2021, "Dataset Condensation with
Differentiable Siamese Augmentation", and their public code, `evaluate_synset`; Cazenavette et al. 2022, "Dataset
Distillation by Matching Training Trajectories", whose public code has the same loop, given the learned rate; Cui et al.
2022, "DC-BENCH: Dataset Condensation Benchmark"; Shen and Xing 2022, "A Fast Knowledge Distillation Framework for
Visual Recognition"; Yin, Xing, Shen 2023, "Squeeze, Recover and Relabel"; Sun et al. 2024, "On the Diversity and
Realism of Distilled Dataset"; Shao et al. 2024, "Generalized Large-Scale Data Condensation via Various Backbone and
Statistical Matching" and "Elucidating the Design Space of Dataset Condensation"; Cui et al. 2025, "FADRM: Fast and
Accurate Data Residual Matching for Dataset Distillation"; and their public code.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import Field

from kip.config import value
from kip.errors import ConfigError
from kip.networks.model import Network
from kip.training.augment import Augmentation, for_classes
from kip.training.batches import Batches
from kip.training.losses import Loss
from kip.training.mix import Mix
from kip.training.recipe import Optimizer, Recipe


@value
class Protocol:
    """A protocol: the training of a network on a set whose accuracy judges the set."""

    name: str
    """The name in tables."""
    paper: str
    """The paper that the protocol is from."""
    labels: Literal["own", "classes", "teacher", "teacher on views", "stored views"]
    """The labels that the network is trained on. With `stored views`, teachers label all views before the training, and
    every network sees the same ones."""
    loss: Loss = "xent"
    """The loss that the network minimises; see `kip.training.losses`."""
    optimizer: Literal["momentum", "adamw"] = "momentum"
    """The optimiser: SGD with momentum 0.9 (`momentum`), or AdamW (`adamw`)."""
    rate: Annotated[float, Field(gt=0)] | None = 0.01
    """The learning rate at its highest. None means the rate that the set was learned with."""
    decay: Annotated[float, Field(ge=0)] = 5e-4
    """The L2 regularisation of SGD, or the weight decay of AdamW."""
    schedule: Literal["constant", "cosine", "warm_cosine", "half_cosine", "halfway", "dc"] = "halfway"
    """The schedule of the learning rate, see `kip.training.recipe.Optimizer`; `dc` is the public loop of DC and DSA."""
    epochs: Annotated[int, Field(ge=1)] = 300
    """The number of passes over the set."""
    batch: Annotated[int, Field(ge=1)] = 256
    """The number of images of an update."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """The temperature T of the loss `kl`."""
    augment: Augmentation | None = None
    """The augmentation of images, without flips where a mirror image has another class. None means `dsa`."""
    mix: Mix = "none"
    """The mixing of the images of an update with each other; see `kip.training.mix`."""
    class_weight: Annotated[float, Field(ge=0)] = 0.0
    """The weight of the cross-entropy at the set's classes, beside a loss of a teacher's labels of views."""

    average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The decay of the moving average of the network's variables, which is tested in their place. 0 tests the variables
    of the last update."""
    teacher: Literal["trained", "squeezed"] = "trained"
    """The networks that give a teacher's labels: `trained` takes one that learned the train images under the
    augmentation of the views, `squeezed` takes those that the set was made from, where its method made some."""

    def __post_init__(self) -> None:
        of_views = self.labels in ("teacher on views", "stored views")
        if self.class_weight and not of_views:
            raise ConfigError("class_weight", got=self.class_weight, expected="0, or a teacher's labels of views")
        if self.mix != "none" and self.labels == "teacher":
            raise ConfigError(
                "mix",
                got=self.mix,
                expected="'none', where a teacher has labelled the images alone",
                remedy="Take labels='teacher on views'.",
            )

    @property
    def needs_teacher(self) -> bool:
        """True if other networks give the labels."""
        return self.labels in ("teacher", "teacher on views", "stored views")

    @property
    def label(self) -> str:
        """The name for tables, with what differs from the protocol of that name, such as `RDED batch=50`."""
        named = PROTOCOLS.get(self.name, self)
        changed = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "paper" and getattr(self, field.name) != getattr(named, field.name)
        }
        return " ".join([self.name, *(f"{name}={part}" for name, part in changed.items())])

    def rate_for(self, learned: float | None) -> float:
        """Return the learning rate at its highest: the protocol's, or the one that a set was learned with.

        Args:
            learned: the rate of the set; None where it has none.

        Raises:
            ConfigError: if the protocol takes the set's rate and there is none.
        """
        rate = learned if self.rate is None else self.rate
        if rate is None:
            raise ConfigError(
                f"learning rate of protocol {self.name}",
                got="a set without one",
                expected="the rate that the set was learned with",
                remedy="Give it with --rate, to `kip compare` or `kip import`.",
            )
        return rate

    def recipe(self, count: int, *, mirror_keeps_class: bool) -> Recipe:
        """Return the training on a set. Where the set gives the rate, the training replaces that of the recipe.

        Args:
            count: images of the set.
            mirror_keeps_class: whether its images may be flipped.
        """
        public = self.schedule == "dc"
        batches = Batches(count, self.batch)
        kind = {"momentum": "sgd", "adamw": "adamw"}[self.optimizer]
        optimizer = Optimizer(
            kind,  # type: ignore[arg-type]
            self.rate or Optimizer.learning_rate,
            momentum=0.9 if kind == "sgd" else 0.0,
            weight_decay=self.decay,
            schedule="halfway" if public else self.schedule,  # type: ignore[arg-type]
        )
        return Recipe(
            self.loss,
            temperature=self.temperature,
            optimizer=optimizer,
            restart_at=(self.epochs // 2 + 2) * batches.of_epoch if public else None,
            steps=(self.epochs + public) * batches.of_epoch,
            batch=self.batch,
            drawn=batches.drawn,
            augment=for_classes(self.augment or "dsa", mirror_keeps_class),
            mix=self.mix,
            class_weight=self.class_weight,
            average=self.average,
            evaluations=1,
            keep="last",
        )


_RETHINKING = "Rethinking Dataset Distillation: Hard Truths About Soft Labels, Table 1"
_DC = "Zhao, Mopuri, Bilen 2021, Dataset Condensation with Gradient Matching"
_MTT = "Cazenavette et al. 2022, Dataset Distillation by Matching Training Trajectories"
_DSA = "Zhao and Bilen 2021, Dataset Condensation with Differentiable Siamese Augmentation"
_SOFT: dict[str, Any] = {
    "loss": "kl",
    "temperature": 20.0,
    "optimizer": "adamw",
    "rate": 1e-3,
    "decay": 1e-2,
    "schedule": "cosine",
}
_KD: dict[str, Any] = {**_SOFT, "labels": "teacher on views"}
_LARGE: dict[str, Any] = {**_SOFT, "schedule": "warm_cosine", "epochs": 200, "batch": 128, "augment": "flip_resized"}
_SRE2L = "Yin, Xing, Shen 2023, Squeeze, Recover and Relabel"
_RDED = "Sun et al. 2024, On the Diversity and Realism of Distilled Dataset"
_GVBSM = "Shao et al. 2024, Generalized Large-Scale Data Condensation via Various Backbone and Statistical Matching"
_EDC = "Shao et al. 2024, Elucidating the Design Space of Dataset Condensation"
_FADRM = "Cui et al. 2025, FADRM: Fast and Accurate Data Residual Matching for Dataset Distillation"
_RDED_KD: dict[str, Any] = {**_KD, "schedule": "half_cosine", "batch": 100, "mix": "cutmix", "teacher": "squeezed"}
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("HL", _RETHINKING, "classes"),
        Protocol("HL-plain", "Li et al. 2025, DD-Ranking", "classes", augment="none"),
        Protocol("SL", _RETHINKING, "teacher", **_SOFT),
        Protocol("SL+KD", _RETHINKING, "teacher on views", **_SOFT),
        Protocol("FKD", "Shen and Xing 2022, A Fast Knowledge Distillation Framework", "stored views", **_SOFT),
        Protocol("OWN", "none", "own", loss="mse"),
        Protocol("DSA", _DSA, "classes", schedule="dc", epochs=1000),
        Protocol("DC", _DC, "classes", schedule="dc", augment="none"),
        Protocol("DC-MNIST", _DC, "classes", schedule="dc", augment="dc", epochs=1000),
        Protocol("DC-BENCH", "Cui et al. 2022, DC-BENCH", "classes", schedule="dc", epochs=1000),
        Protocol("MTT", _MTT, "classes", rate=None, schedule="dc", epochs=1000),
        Protocol(
            "SRe2L",
            _SRE2L,
            **{**_KD, "temperature": 30.0},
            epochs=400,
            batch=128,
            augment="flip_shift",
            mix="mixup",
            teacher="squeezed",
        ),
        Protocol("RDED", _RDED, **_RDED_KD, augment="flip"),
        Protocol("RDED-tiles", _RDED, **_RDED_KD, augment="flip_tiles"),
        Protocol(
            "G-VBSM",
            _GVBSM,
            "stored views",
            loss="mean",
            rate=0.1,
            schedule="cosine",
            epochs=1000,
            batch=64,
            augment="flip_resized",
            mix="cutmix",
            class_weight=0.15,
            teacher="squeezed",
        ),
        Protocol(
            "EDC",
            _EDC,
            **{**_KD, "loss": "mean", "temperature": 1.0, "schedule": "half_cosine"},
            epochs=1000,
            batch=10,
            augment="flip_resized",
            mix="cutmix",
            class_weight=0.025,
            average=0.99,
            teacher="squeezed",
        ),
        Protocol(
            "FADRM",
            _FADRM,
            **{**_KD, "labels": "stored views"},
            epochs=1000,
            batch=16,
            augment="flip_resized",
            mix="cutmix",
            teacher="squeezed",
        ),
        Protocol(
            "HL-large",
            _RETHINKING,
            "classes",
            rate=0.5,
            schedule="cosine",
            epochs=200,
            batch=50,
            augment="flip_resized",
        ),
        Protocol("SL-large", _RETHINKING, "teacher", **_LARGE),
        Protocol("SL+KD-large", _RETHINKING, "stored views", **_LARGE, mix="cutmix"),
    )
}


def for_set(
    protocol: Protocol, *, classes: int, images_per_class: int, student: Network, teacher: Network | None = None
) -> Protocol:
    """Return a protocol as its source has it for a set; all but RDED's and `HL-large` are the same for all sets.

    RDED's public code (`argument.py`) sets the batch by the size of the set, and the rate by the student:

    | images of each class | 10 classes | 100 or 1000 classes | 200 classes (Tiny-ImageNet) |
    |---|---|---|---|
    | 1 | 10 | 20 | 100 |
    | 10 | 50 | 100 | 100 |
    | 50 | 100 | 200 | 100 |

    at a rate of 1e-3; VGG11 5e-4, AlexNet 1e-4, MobileNetV2 2.5e-3. With 100 classes, where teacher and student are
    both ConvNet-D3: a batch of 25 and a rate of 2e-3. The code has no other sizes: here they take the row below theirs,
    and other numbers of classes the column of 10 if they are fewer than 100, else of 100.

    `HL-large` (paper 003, Table 1) takes a batch of 50 with 10 images of each class, 128 with 50 and 200 with 100.

    Args:
        protocol: a member of `PROTOCOLS`, or one with another name or number of epochs.
        classes: the number of classes of the data set.
        images_per_class: images of each class in the set.
        student: the network that is trained.
        teacher: the network that labels; None where there are several, or none.
    """
    if protocol.paper == _RDED:
        batch = next((size for least, size in ((50, 100), (10, 50)) if images_per_class >= least), 10)
        if classes == TINY_CLASSES:
            batch = 100
        elif classes >= MANY_CLASSES:
            batch *= 2
        rate = RDED_RATES.get(student.name, 1e-3)
        if classes == MANY_CLASSES and teacher is not None and student.name == teacher.name == "ConvNet-D3":
            batch, rate = 25, 2e-3
        return dataclasses.replace(protocol, batch=batch, rate=rate)
    if protocol.paper == _RETHINKING and protocol.name.split(" ")[0] == "HL-large":
        batch = next((size for least, size in ((100, 200), (50, 128)) if images_per_class >= least), 50)
        return dataclasses.replace(protocol, batch=batch)
    return protocol


MANY_CLASSES = 100
"""From this number of classes on, RDED's public code doubles the batch."""
TINY_CLASSES = 200
"""The classes of Tiny-ImageNet, which has a batch of its own in RDED's public code."""
RDED_RATES = {"VGG11": 5e-4, "AlexNet": 1e-4, "MobileNetV2": 2.5e-3}
"""The learning rates of RDED's public code that are not 1e-3, by the student."""
