"""TF-IDF: the cosine between weighted counts of words and word pairs.

    weight(w, i) = tf (ln((1 + N) / (1 + n_w)) + 1),    score(i, q) = cos(weight(., i), weight(., q))

with `tf` the count of w in i and `n_w` the number of training texts that have w; words that no training text
has are left out of the query, also of its length. Scores lie between 0 (no word in common) and 1 (the same
counts).

Paper: Salton and Buckley, Term-weighting approaches in automatic text retrieval, 1988. Computed by
scikit-learn with an exact vocabulary, so no hash collisions.

Cost: reading the training texts once; then one sparse product per block of queries. Memory: 12 bytes per
distinct word and word pair of each text. It measures word overlap, not influence.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
from jaxtyping import Float32

from assay.examples import Examples
from assay.methods.base import Fitted, Method, option
from assay.methods.lexical.words import PARTS, query_texts, train_texts, words
from assay.methods.streamed import Streamed
from assay.progress import progress
from assay.provenance import measured


@dataclass(frozen=True)
class TFIDF(Method):
    """Cosine of weighted counts of words and word pairs."""

    name: ClassVar[str] = "tfidf"
    family: ClassVar[str] = "lexical"
    unit: ClassVar[str] = "arbitrary"
    summary: ClassVar[str] = "cosine of weighted counts of words and word pairs"
    paper: ClassVar[str] = "Salton and Buckley 1988"

    ngrams: int = option(2, "the longest run of words that is counted as one")
    query: str = option("whole", "which part of a query is searched for", PARTS)

    def check(self) -> None:
        """At least single words."""
        self.expect(self.ngrams >= 1, "ngrams", "a whole number of at least 1")

    def fit(self, model: Any, train: Examples) -> Fitted:
        """Weigh the words of the training texts; the model is not looked at."""
        with measured() as cost:
            index = _Index(self, train)
        return Streamed(self, train, index, cost.seconds)


class _Index:
    """Unit rows of the training texts, and the weights to make such rows of queries."""

    def __init__(self, method: TFIDF, train: Examples) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer  # a second to import

        self._method, self._n_train = method, len(train)
        texts = train_texts(train, method.name)
        vectorizer = cast(Any, TfidfVectorizer)(
            tokenizer=words, token_pattern=None, lowercase=False, ngram_range=(1, method.ngrams), dtype=np.float64
        )
        self._vectorizer = vectorizer if any(words(text) for text in texts) else None  # it refuses wordless texts
        if self._vectorizer is not None:
            self._rows = self._vectorizer.fit_transform(progress(texts, "counting words", len(train)))

    def __call__(self, queries: Examples, /) -> Float32[np.ndarray, "n_train n_query"]:
        texts = query_texts(queries, self._method.query, self._method.name)
        if self._vectorizer is None:
            return np.zeros((self._n_train, len(texts)), np.float32)
        scores = self._rows @ self._vectorizer.transform(texts).T
        return scores.toarray().astype(np.float32)
