"""What taught a language model to reason: influence on solved problems by example, sentence and token."""

from assay.evaluate.reasoning.deletion import Deletion, sentence_deletion
from assay.evaluate.reasoning.solved import is_right, solved
from assay.evaluate.reasoning.tables import Reasoning, by_difficulty, reasoning
from assay.evaluate.reasoning.words import CLASSES, ROLES, class_of, classes_of, is_code, role_of

__all__ = [
    "CLASSES",
    "ROLES",
    "Deletion",
    "Reasoning",
    "by_difficulty",
    "class_of",
    "classes_of",
    "is_code",
    "is_right",
    "reasoning",
    "role_of",
    "sentence_deletion",
    "solved",
]
