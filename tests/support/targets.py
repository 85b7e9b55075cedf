"""Targets of any kind, stacked as their tasks stack them."""

from torch import Tensor

from ziggurat.data.batch import Objects
from ziggurat.tasks.classification.targets import LabelKind
from ziggurat.tasks.detection.targets import ObjectKind
from ziggurat.tasks.segmentation.targets import MaskKind


def stack_targets(targets, rows, columns):
    """Stack the targets of samples by what the first one is: objects, a mask or a label."""
    kind = LabelKind()
    if isinstance(targets[0], Objects):
        kind = ObjectKind()
    elif isinstance(targets[0], Tensor):
        kind = MaskKind()
    return kind.stack(targets, rows, columns)
