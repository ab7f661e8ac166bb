"""Folds: many scores into fewer, over queries or over sources; and sums of a score's parts over sentences and layers.

    queries   scores[i, g] = fold over the queries q of group g of scores[i, q]        Scores, one column a group
    sources   scores[s, q] = fold over the examples i of source s of scores[i, q]      Scores, one row a source
    value     values[i]    = fold over all columns of scores[i, .]                     Values

A fold is "sum", "mean" or "max", in float64. Groups may be of any sizes. Of several subtasks, LESS takes
`value(queries(scores, groups, "mean"), "max")`: the mean over a subtask's queries, then the subtask that an example
helps most; `value(scores, "mean")` weighs every query alike.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Float64

from assay.errors import InputError, nearest
from assay.scores import Scores
from assay.tables import Table
from assay.tasks import Token
from assay.values import Values

Fold = Literal["sum", "mean", "max"]
FOLDS: dict[str, Callable[[Float[np.ndarray, "n k"]], Float[np.ndarray, " n"]]] = {
    "sum": lambda part: part.sum(1, dtype=np.float64),
    "mean": lambda part: part.mean(1, dtype=np.float64),
    "max": lambda part: part.max(1).astype(np.float64),
}
NO_SOURCE = "(no source)"
_END = re.compile(r"""(?:[.!?…]+["'”’)\]]*(?=\s)|[。！？]+[」』”’）]*)\s*|\n+\s*""")


def queries(scores: Scores, groups: Mapping[str, str] | Sequence[str] | None = None, fold: Fold = "mean") -> Scores:
    """One column for each group of queries, in the order of their first query.

    Args:
        scores: dense.
        groups: the group of each query, in their order or by id; None: their sources.
        fold: "sum", "mean" or "max".

    Raises:
        InputError: a query without a group, an unknown fold, or a result that holds only the best at both ends.
    """
    named = _groups(scores.queries, groups)
    table, members = _table(scores.queries, named, "queries")
    array = np.stack([_folded(scores.array[:, rows], fold) for rows in members], 1)
    return Scores.of(array, scores.train, table, scores.provenance)


def sources(scores: Scores, fold: Fold = "sum") -> Scores:
    """One row for each source, in the order of their first example; examples without one are a group of their own."""
    named = [source if source is not None else NO_SOURCE for source in scores.train.sources]
    table, members = _table(scores.train, named, "examples")
    array = np.stack([_folded(scores.array[rows].T, fold) for rows in members])
    return Scores.of(array, table, scores.queries, scores.provenance)


def value(scores: Scores, fold: Fold = "mean") -> Values:
    """One number for each training example."""
    return Values.of(_folded(scores.array, fold), scores.train, scores.provenance)


def _folded(part: Float[np.ndarray, "n k"], fold: str) -> Float[np.ndarray, " n"]:
    if fold not in FOLDS:  # unless types are checked
        raise InputError(f"There is no fold '{fold}'. {nearest(fold, FOLDS)}")
    return FOLDS[fold](part)


def _groups(table: Table, groups: Mapping[str, str] | Sequence[str] | None) -> list[str]:
    """The group of each line."""
    if groups is None:
        missing = [name for name, source in zip(table.ids, table.sources, strict=True) if source is None]
        found = [str(source) for source in table.sources]
    elif isinstance(groups, Mapping):
        missing = [name for name in table.ids if name not in groups]
        found = [str(groups.get(name)) for name in table.ids]
    else:
        missing = []
        found = [str(group) for group in groups]
    if missing or len(found) != len(table):
        short = f"query '{missing[0]}' has none" if missing else f"{len(found)} were given"
        raise InputError(f"Each of the {len(table)} queries needs a group, and {short}. Give groups=, one a query.")
    return found


def _table(table: Table, named: Sequence[str], what: str) -> tuple[Table, list[list[int]]]:
    """A table of the groups, and the lines of each."""
    members: dict[str, list[int]] = {}
    for line, group in enumerate(named):
        members.setdefault(group, []).append(line)
    texts = [f"{len(lines)} {what}" for lines in members.values()]
    names = list(members)
    return Table(names, names, texts, np.arange(len(names)), len(names)), list(members.values())


def sentences(text: str) -> list[tuple[int, int]]:
    """Where each sentence begins and ends, white space behind it included; together they are the whole text.

    A sentence ends behind `.`, `!`, `?` before white space, behind their ideographic forms, and at a line's end.

    >>> sentences("One. Two!  Three")
    [(0, 5), (5, 11), (11, 16)]
    """
    ends = [match.end() for match in _END.finditer(text)]
    if not ends or ends[-1] < len(text):
        ends.append(len(text))
    return [(start, end) for start, end in zip([0, *ends], ends, strict=False) if start < end]


def by_sentence(
    tokens: Sequence[Token], scores: Float64[np.ndarray, " tokens"]
) -> tuple[list[Token], Float64[np.ndarray, " sentences"]]:
    """Sums over the tokens of each sentence, and each sentence as one token of all its text. A token that reaches over an
    end belongs to the sentence that holds its last visible character; one without text to that of the token before it.
    """
    text = "".join(token.text for token in tokens if token.start < token.end)
    ends = [end for _, end in sentences(text)] or [0]
    groups: list[int] = []
    position = 0
    for token in tokens:
        if token.start < token.end:
            last = position + max(len(token.text.rstrip()), 1) - 1
            groups.append(int(np.searchsorted(ends, last, side="right")))
            position += len(token.text)
        else:
            groups.append(groups[-1] if groups else 0)
    known = sorted(set(groups))
    members = [[t for t, group in zip(tokens, groups, strict=True) if group == one] for one in known]
    wholes = [
        Token(
            "".join(t.text for t in some if t.start < t.end) or some[0].text,
            min(t.start for t in some),
            max(t.end for t in some),
            any(t.counted for t in some),
        )
        for some in members
    ]
    return wholes, np.array([scores[[g == one for g in groups]].sum() for one in known], np.float64)


def layer_of(module: str) -> str:
    """The layer that a module belongs to: its name through the first number, or its own name where it has none.

    >>> layer_of("model.layers.3.mlp.down_proj"), layer_of("lm_head"), layer_of("model.norm.weight")
    ('model.layers.3', 'lm_head', 'model.norm')
    """
    words = module.split(".")
    number = next((k for k, word in enumerate(words) if word.isdecimal()), None)
    if number is not None:
        return ".".join(words[: number + 1])
    return ".".join(words[:-1] if len(words) > 1 and words[-1] in ("weight", "bias") else words)


def by_layer(
    modules: Sequence[str], scores: Float64[np.ndarray, " modules"]
) -> tuple[list[str], Float64[np.ndarray, " layers"]]:
    """Sums over the modules of each layer, layers in the order of their first modules."""
    layers = [layer_of(module) for module in modules]
    names = list(dict.fromkeys(layers))
    return names, np.array([scores[[layer == name for layer in layers]].sum() for name in names], np.float64)
