"""Methods that compare words alone; the baselines to beat."""

from assay.methods.lexical.bm25 import BM25
from assay.methods.lexical.tfidf import TFIDF

__all__ = ["BM25", "TFIDF"]
