"""The gradient index on disk: build, append, open, scan.

`Writer` stores features so that a killed build resumes; `open_index` reads them; `top_k` and `dense` score queries
against all of them with bounded memory. The format is specified in `docs/index-format.md`.
"""

from assay.index.format import Dtype, Manifest, Shard
from assay.index.reader import StoredIndex, Tile, open_index
from assay.index.scan import TopK, dense, top_k
from assay.index.writer import Writer, default_shard_rows

__all__ = [
    "Dtype",
    "Manifest",
    "Shard",
    "StoredIndex",
    "Tile",
    "TopK",
    "Writer",
    "default_shard_rows",
    "dense",
    "open_index",
    "top_k",
]
