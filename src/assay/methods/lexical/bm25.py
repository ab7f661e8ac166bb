"""BM25: how rare and how frequent are the query's words in a training text?

    score(i, q) = sum over words w of q of  idf(w) tf (k1 + 1) / (tf + k1 (1 - b + b len_i / avg)),
    idf(w) = ln(1 + (N - n_w + 1/2) / (n_w + 1/2))

with `tf` the count of w in i, `n_w` the number of training texts that have w, `len_i` the words of i and
`avg` their mean. A word that the query repeats counts every time. Scores are never negative.

Paper: Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond, 2009; as the baseline
of fact tracing: Akyurek et al., 2022 (arXiv 2205.11482). Computed by bm25s, which keeps a number per word and
text.

Cost: reading the training texts once; then a sum over the texts that have it per query word. Memory: 12 bytes
per distinct word of each text, while fitting also 4 per word. It measures word overlap, not influence.
"""

from array import array
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import bm25s
import numpy as np
from jaxtyping import Float32

from assay.examples import Examples
from assay.methods.base import Fitted, Method, option
from assay.methods.lexical.words import PARTS, query_texts, train_texts, words
from assay.methods.streamed import Streamed
from assay.progress import progress
from assay.provenance import measured


@dataclass(frozen=True)
class BM25(Method):
    """Word overlap weighted by rarity; the baseline to beat."""

    name: ClassVar[str] = "bm25"
    family: ClassVar[str] = "lexical"
    unit: ClassVar[str] = "arbitrary"
    summary: ClassVar[str] = "word overlap weighted by rarity; the baseline to beat"
    paper: ClassVar[str] = "Robertson and Zaragoza 2009"

    k1: float = option(1.5, "how fast repeated words stop adding; 0 counts a word once")
    b: float = option(0.75, "how much long texts are discounted, from 0 (not) to 1 (in proportion)")
    query: str = option("whole", "which part of a query is searched for", PARTS)

    def check(self) -> None:
        """k1 >= 0 and 0 <= b <= 1."""
        self.expect(0 <= self.k1 < np.inf, "k1", "a number of at least 0")
        self.expect(0 <= self.b <= 1, "b", "a number between 0 and 1")

    def fit(self, model: Any, train: Examples) -> Fitted:
        """Count the words of the training texts; the model is not looked at."""
        with measured() as cost:
            index = _Index(self, train)
        return Streamed(self, train, index, cost.seconds)


class _Index:
    """Each training text's score for each single word, summed over a query's words."""

    def __init__(self, method: BM25, train: Examples) -> None:
        self._method, self._n_train = method, len(train)
        self._number: dict[str, int] = {}  # a word's number, in order of appearance
        texts = progress(train_texts(train, method.name), "counting words", len(train))
        number = self._number
        numbers = [array("i", [number.setdefault(word, len(number)) for word in words(text)]) for text in texts]
        # bm25s calls the formula's tf part with (k1 + 1) "atire" and its idf "lucene"
        self._index = cast(Any, bm25s).BM25(
            k1=method.k1, b=method.b, method="atire", idf_method="lucene", dtype="float64", csc_backend="scipy"
        )
        if number:  # else no text has a word, and every score is zero
            self._index.index((numbers, dict(number)), create_empty_token=False, show_progress=False)

    def __call__(self, queries: Examples, /) -> Float32[np.ndarray, "n_train n_query"]:
        texts = query_texts(queries, self._method.query, self._method.name)
        return np.stack([self._column(text) for text in texts], axis=1)

    def _column(self, text: str) -> Float32[np.ndarray, " n_train"]:
        known = [self._number[word] for word in words(text) if word in self._number]
        column = self._index.get_scores_from_ids(known) if known else np.zeros(self._n_train)
        return column.astype(np.float32)
