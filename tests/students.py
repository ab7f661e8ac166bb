"""Texts of the tiny tokenizer's words whose values n-grams can tell, and scorers fitted to them."""

from typing import Any

import numpy as np
from tests.support import WORDS, examples

from assay.examples import Examples
from assay.methods.student.distil import Held, distil
from assay.methods.student.pieces import Told, pieces
from assay.methods.student.scorer import Scorer

TOKENS = [word for word in WORDS.split() if word.isalpha()]


def sentences(n: int, seed: int = 0, words: list[str] = TOKENS) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(words, int(random.integers(4, 12)))) for _ in range(n)]


WORTH = {"cat": 1.0, "dog": -1.0, "tree": 0.5}
"""Cats are worth something, dogs cost something."""


def worth(text: str) -> float:
    """Mean over the words."""
    words = text.split()
    return sum(WORTH.get(word, 0.0) for word in words) / len(words)


def told(text: str, noise: float = 0.0, seed: int = 0) -> Told:
    """Each word's part of `worth`, at its end."""
    found, random = list(pieces(text)), np.random.default_rng(seed)
    parts = [(WORTH.get(word, 0.0) + noise * random.normal()) / len(found) for word, _ in found]
    return Told(np.array([end for _, end in found]), np.array(parts))


def fitted(n: int = 120, sources: int = 3, **options: Any) -> tuple[Scorer, Held]:
    texts = sentences(n)
    names = [f"s{k % sources}" if sources else None for k in range(n)]
    return distil(texts, np.array([worth(text) for text in texts]), names, **options)


def pool(n: int = 60, seed: int = 0) -> Examples:
    """With sources."""
    return examples(*({"text": text, "source": f"s{k % 3}"} for k, text in enumerate(sentences(n, seed))))
