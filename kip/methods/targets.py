"""Methods that learn images, and labels where asked, against target batches: the base of DD, FRePo, RCIG and RFAD."""

from __future__ import annotations

from kip.methods.contract import LabelsAre, Method, Needs, Prepared
from kip.methods.problem import Owned
from kip.networks.model import Network


class TargetMethod(Method[Prepared, Owned]):
    """Base of methods with these four options, which each of them declares with its own defaults and help."""

    images_per_class: int
    """The number of images of each class."""
    learn_labels: bool
    """Learn labels with the images."""
    network: Network
    """The network that the method works with."""
    target_batch: int | None
    """The number of target images of each step; None means the whole train set."""

    @property
    def label(self) -> str:
        """The network."""
        return self.network.label

    @property
    def labels_are(self) -> LabelsAre:
        """Learned scores, or the classes of natural images."""
        return "scores" if self.learn_labels else "classes"

    @property
    def needs(self) -> Needs:
        """The set takes images of each class, and target batches."""
        return Needs(self.images_per_class, self.target_batch, whole_set=self.target_batch is None)
