"""Tasks: how an example becomes tensors and what is measured of it; one file a kind."""

from assay.tasks.base import Batch, Item, Observe, Task
from assay.tasks.ctc import CTC
from assay.tasks.language import CausalLM, SequenceClassification
from assay.tasks.measurements import Loss, Margin, Measurement, Miss, Sampled
from assay.tasks.outcomes import (
    Choosable,
    Contrast,
    LogOdds,
    Measure,
    MeasureOutputs,
    Negated,
    label_of,
    measurement_of,
    negative,
)
from assay.tasks.supervised import Classify, Custom, Regress
from assay.tasks.tokens import Token

__all__ = [
    "Batch",
    "CTC",
    "CausalLM",
    "Choosable",
    "Classify",
    "Contrast",
    "Custom",
    "Item",
    "LogOdds",
    "Loss",
    "Margin",
    "Measure",
    "MeasureOutputs",
    "Measurement",
    "Miss",
    "Negated",
    "Observe",
    "Regress",
    "Sampled",
    "SequenceClassification",
    "Task",
    "Token",
    "label_of",
    "measurement_of",
    "negative",
]
