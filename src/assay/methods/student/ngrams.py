"""What a scorer sees of a text: hashed n-grams in three groups, and a few numbers; and how strange its n-grams are.

Each group is the logarithm of its counts at unit length, so that a product of two texts is a sum of cosines:

    words       single words, numbers, signs, line ends and indents, in the case as written
    pairs       two of these in a row
    characters  one to four characters in a row
    shape       length, and the shares of digits, capitals, signs, line ends and distinct words; scaled by the sample's spread

Hashing (MurmurHash3, by scikit-learn) is the same everywhere and keeps no vocabulary. What a scorer knows of an n-gram is its bucket.
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import scipy.sparse as sparse
from jaxtyping import Bool, Float64

LINE, INDENT = "\u2424", "\u2423"
"""What stands for the end of a line and for one of several spaces, which hashing would pass over."""
TOKEN = rf"[{LINE}{INDENT}]+|\w+|[^\w\s]"
GROUPS: dict[str, dict[str, Any]] = {
    "words": {
        "analyzer": "word",
        "token_pattern": TOKEN,
        "ngram_range": (1, 1),
        "lowercase": False,
        "n_features": 2**15,
    },
    "pairs": {
        "analyzer": "word",
        "token_pattern": TOKEN,
        "ngram_range": (2, 2),
        "lowercase": False,
        "n_features": 2**16,
    },
    "characters": {"analyzer": "char", "ngram_range": (1, 4), "lowercase": False, "n_features": 2**16},
}
SHAPE = 8
WIDTH = sum(group["n_features"] for group in GROUPS.values())
"""Buckets of all groups, one group behind the other."""
SPECIFICATION = "ngrams-1"
"""Of all of the above; another specification is another scorer."""

Sparse = Any
"""A scipy matrix of one row a text."""


def ngrams(texts: Sequence[str]) -> Sparse:
    """Log counts of the hashed n-grams, each group at unit length: CSR, float64 [texts, WIDTH]."""
    return cast(Any, sparse).hstack([unit(counts(texts, name)) for name in GROUPS], format="csr")


def counts(texts: Sequence[str], group: str) -> Sparse:
    """How often each bucket of a group occurs in each text."""
    from sklearn.feature_extraction import text

    hashing = cast(Any, text).HashingVectorizer(alternate_sign=False, norm=None, **GROUPS[group])
    return hashing.transform([visible(text) for text in texts])


def visible(text: str) -> str:
    """With line ends and indents as characters of their own."""
    return text.replace("\r\n", "\n").replace("\n", LINE).replace("  ", INDENT * 2)


def unit(found: Sparse) -> Sparse:
    """Logarithms of the counts, rows at unit length; an empty row stays empty."""
    found = found.copy()
    found.data = np.log1p(found.data)
    length = np.sqrt(np.asarray(found.multiply(found).sum(1)).ravel())
    return sparse.diags(1 / np.where(length > 0, length, 1.0)) @ found


def shape(texts: Sequence[str]) -> Float64[np.ndarray, "n s"]:
    """The numbers that n-grams at unit length do not tell, [n, SHAPE]."""
    return np.array([_shape(text) for text in texts], dtype=np.float64).reshape(len(texts), SHAPE)


def standard(
    numbers: Float64[np.ndarray, "n s"], center: Float64[np.ndarray, " s"], scale: Float64[np.ndarray, " s"]
) -> Float64[np.ndarray, "n s"]:
    """Shape in units of a sample's spread, at most three of them, a row of about unit length."""
    return np.clip((numbers - center) / scale, -3, 3) / np.sqrt(numbers.shape[1])


def _shape(text: str) -> tuple[float, ...]:
    length, words = max(len(text), 1), text.split()
    count = max(len(words), 1)
    signs = sum(not character.isalnum() and not character.isspace() for character in text)
    return (
        float(np.log(length)),
        float(np.log(count)),
        length / count,
        sum(map(str.isdigit, text)) / length,
        sum(map(str.isupper, text)) / length,
        signs / length,
        text.count("\n") / length,
        len(set(words)) / count,
    )


def novelty(found: Sparse, seen: Bool[np.ndarray, " width"]) -> Float64[np.ndarray, " n"]:
    """The share of a text's words, pairs and characters that are in no bucket the sample has filled, mean of the groups.

    A text without n-grams is wholly new.
    """
    new = np.zeros(found.shape[0])
    start = 0
    for group in GROUPS.values():
        part = found[:, start : start + group["n_features"]]
        known = seen[start : start + group["n_features"]]
        weight = np.asarray(part.sum(1)).ravel()
        share = part @ (~known).astype(np.float64) / np.where(weight > 0, weight, 1.0)
        new += np.where(weight > 0, share, 1.0) / len(GROUPS)
        start += group["n_features"]
    return new
