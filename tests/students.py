"""Texts of the tiny tokenizer's words whose values n-grams can tell, and scorers fitted to them."""

from typing import Any

import numpy as np
from tests.support import WORDS, examples

from assay.examples import Examples
from assay.methods.student.distil import Held, distil
from assay.methods.student.scorer import Scorer

TOKENS = [word for word in WORDS.split() if word.isalpha()]


def sentences(n: int, seed: int = 0, words: list[str] = TOKENS) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(words, int(random.integers(4, 12)))) for _ in range(n)]


def worth(text: str) -> float:
    """Cats are worth something, dogs cost something."""
    words = text.split()
    return (words.count("cat") - words.count("dog") + 0.5 * words.count("tree")) / len(words)


def fitted(n: int = 120, sources: int = 3, **options: Any) -> tuple[Scorer, Held]:
    texts = sentences(n)
    names = [f"s{k % sources}" if sources else None for k in range(n)]
    return distil(texts, np.array([worth(text) for text in texts]), names, **options)


def pool(n: int = 60, seed: int = 0) -> Examples:
    """With sources."""
    return examples(*({"text": text, "source": f"s{k % 3}"} for k, text in enumerate(sentences(n, seed))))
