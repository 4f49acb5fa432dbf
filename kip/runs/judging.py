"""The cost of judging while a run goes on: a share of the work of its steps, whatever the machine's speed.

A run is judged before its first step too, and so one time more than it has checkpoints after steps: each judging has
half of the share of the steps between two checkpoints, and all together cost the share at most.

Work is counted in images that pass through a network, a pass forward and back as three, so that the same configuration
is judged alike everywhere and a resumed run as if it had not been stopped. At the end of a run the whole protocol
judges what is exported.
"""

from __future__ import annotations

from typing import NamedTuple

from kip.experiment import Experiment
from kip.judges import Judge
from kip.judges.judge import Part

FEW_STEPS = 5
"""Methods with fewer steps, such as selections, are judged by the shortest training at each checkpoint: their work lies
before the steps, and there is next to nothing to choose."""


class Judging(NamedTuple):
    """The judges of a run.

    Attributes:
        during: for validation at each checkpoint.
        whole: for the end.
        size: images of the set.
    """

    during: Judge
    whole: Judge
    size: int

    @property
    def is_brief(self) -> bool:
        """Return whether checkpoints are judged by less than the whole protocol."""
        return self.during != self.whole

    def seconds(self, part: Part, of_validation: float) -> float | None:
        """Return the seconds that the whole protocol will take; None where the judges train no networks.

        Args:
            part: the split that is judged on.
            of_validation: what the training of the networks of one checkpoint took.
        """
        during = self.during.trained_images("validation", self.size)
        return of_validation * self.whole.trained_images(part, self.size) / during if during else None


def judging(experiment: Experiment, *, size: int, num_classes: int) -> Judging:
    """Return the judges of a run.

    Args:
        experiment: the run's, whose `judging_share` is the bound.
        size: images of the set.
        num_classes: C.
    """
    method, share = experiment.method, experiment.judging_share
    whole = method.judge
    if share is None:
        return Judging(whole, whole, size)
    between = 0 if method.steps < FEW_STEPS else min(experiment.checkpoint_every, method.steps)
    return Judging(whole.within(share / 2 * between * method.step_images(num_classes), size), whole, size)
