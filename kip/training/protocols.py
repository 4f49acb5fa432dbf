"""Named protocols of training a network on a distilled set: what the literature's evaluations do, as values.

| name | labels | loss | optimiser | paper |
|---|---|---|---|---|
| HL | the set's classes | cross-entropy | SGD 0.01, momentum 0.9, decay 5e-4, a tenth from half on | 003, small scale |
| HL-plain | the set's classes | as HL | as HL, without augmentation | Li et al. 2025, DD-Ranking |
| SL | a teacher's logits on the images, fixed | KL at T = 20, without T^2 | AdamW 1e-3, cosine | 003, small scale |
| SL+KD | a teacher's logits on every augmented view | as SL | as SL | 003 |
| OWN | the set's own labels, learned or not | squared error | as HL | none: what the set was learned for |
| DSA | the set's classes | cross-entropy | the public loop of DC and DSA, 1000 epochs | Zhao and Bilen 2021 |
| DC | the set's classes | cross-entropy | the same, 300 epochs, no augmentation | Zhao, Mopuri, Bilen 2021 |
| DC-MNIST | the set's classes | cross-entropy | the same, 1000 epochs, DC's augmentation of MNIST | Zhao et al. 2021 |
| DC-BENCH | the set's classes | cross-entropy | as DSA | Cui et al. 2022 |

All train in batches of 256, the first five for 300 epochs, with DSA's augmentation unless it is said otherwise: one
operation a batch, no flips where a mirror image has another class. Hard labels are the argmax of learned ones. Nothing
is searched, and the last parameters are tested. `dataclasses.replace(PROTOCOLS[...], epochs=...)` is for smaller
machines.

The public loop of DC and DSA: SGD 0.01, momentum 0.9, decay 5e-4; for E epochs it makes E + 1 passes, the last batch of
a pass is what is left of it, and after pass E // 2 + 2 a new optimiser goes on with a tenth of the rate.

References: "Rethinking Dataset Distillation: Hard Truths About Soft Labels", Table 1 (its section 2); Zhao, Mopuri,
Bilen 2021, "Dataset Condensation with Gradient Matching"; Zhao and Bilen 2021, "Dataset Condensation with
Differentiable Siamese Augmentation", and their public code, `evaluate_synset`; Cui et al. 2022, "DC-BENCH: Dataset
Condensation Benchmark".
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from kip.config import value
from kip.training.augment import Augmentation, strategy_for
from kip.training.batches import Batches
from kip.training.losses import Loss
from kip.training.recipe import Optimizer, Recipe


@value
class Protocol:
    """How a set is judged."""

    name: str
    """For tables."""
    paper: str
    """Where it is from."""
    labels: Literal["own", "classes", "teacher", "teacher on views"]
    """What the network is trained on."""
    loss: Loss = "xent"
    """What the network minimises; see `kip.training.losses`."""
    optimizer: Literal["momentum", "adamw"] = "momentum"
    """SGD with momentum 0.9, or AdamW."""
    rate: Annotated[float, Field(gt=0)] = 0.01
    """Learning rate at its highest."""
    decay: Annotated[float, Field(ge=0)] = 5e-4
    """L2 (momentum) or weight decay (AdamW)."""
    schedule: Literal["constant", "cosine", "halfway", "dc"] = "halfway"
    """How the rate falls: see `kip.training.recipe.Optimizer`; `dc` is the whole public loop of DC and DSA."""
    epochs: Annotated[int, Field(ge=1)] = 300
    """Passes over the set."""
    batch: Annotated[int, Field(ge=1)] = 256
    """Images of an update."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """T of the loss `kl`."""
    augment: Augmentation | None = None
    """How images are varied; None: `dsa`, or `dsa_no_flip` where a mirror image has another class."""

    @property
    def needs_teacher(self) -> bool:
        """Whether another network gives the labels."""
        return self.labels.startswith("teacher")

    def recipe(self, count: int, *, mirror_keeps_class: bool) -> Recipe:
        """Return the training on a set.

        Args:
            count: images of the set.
            mirror_keeps_class: whether its images may be flipped.
        """
        public = self.schedule == "dc"
        batches = Batches(count, self.batch, "whole_epochs" if public else "epochs")
        kind = {"momentum": "sgd", "adamw": "adamw"}[self.optimizer]
        optimizer = Optimizer(
            kind,  # type: ignore[arg-type]
            self.rate,
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
            augment=self.augment or strategy_for(mirror_keeps_class),
            evaluations=1,
            keep="last",
        )


_RETHINKING = "Rethinking Dataset Distillation: Hard Truths About Soft Labels, Table 1"
_DC = "Zhao, Mopuri, Bilen 2021, Dataset Condensation with Gradient Matching"
_DSA = "Zhao and Bilen 2021, Dataset Condensation with Differentiable Siamese Augmentation"
_SOFT: dict[str, Any] = {
    "loss": "kl",
    "temperature": 20.0,
    "optimizer": "adamw",
    "rate": 1e-3,
    "decay": 1e-2,
    "schedule": "cosine",
}
PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("HL", _RETHINKING, "classes"),
        Protocol("HL-plain", "Li et al. 2025, DD-Ranking", "classes", augment="none"),
        Protocol("SL", _RETHINKING, "teacher", **_SOFT),
        Protocol("SL+KD", _RETHINKING, "teacher on views", **_SOFT),
        Protocol("OWN", "none", "own", loss="mse"),
        Protocol("DSA", _DSA, "classes", schedule="dc", epochs=1000),
        Protocol("DC", _DC, "classes", schedule="dc", augment="none"),
        Protocol("DC-MNIST", _DC, "classes", schedule="dc", augment="dc", epochs=1000),
        Protocol("DC-BENCH", "Cui et al. 2022, DC-BENCH", "classes", schedule="dc", epochs=1000),
    )
}
