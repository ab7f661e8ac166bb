"""Tasks: how an example becomes tensors and what is measured of it; one file a kind."""

from assay.tasks.base import Batch, Item, Observe, Task
from assay.tasks.language import CausalLM, SequenceClassification
from assay.tasks.measurements import Loss, Margin, Measurement, Miss
from assay.tasks.supervised import Classify, Custom, Regress

__all__ = [
    "Batch",
    "CausalLM",
    "Classify",
    "Custom",
    "Item",
    "Loss",
    "Margin",
    "Measurement",
    "Miss",
    "Observe",
    "Regress",
    "SequenceClassification",
    "Task",
]
