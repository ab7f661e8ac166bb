"""What the page shows of parts of scores: texts with their tokens coloured by their share, and bars for layers.

A text is coloured by levels: 0 is nothing, 8 the largest share in it, of either sign; nothing is said by colour alone, since
every coloured token tells its number when pointed at and the strongest stand in a table. Long texts are cut to a window
around their strongest token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from assay.explore import format
from assay.explore.text import plain, visible
from assay.folds import by_layer
from assay.grain import ELSEWHERE, NOWHERE, Fold, Parts
from assay.scores import Scores

LEVELS = 8
WINDOW = 400  # tokens of a text that are shown
STRONGEST = 8  # tokens in the table
PAIRS = 200  # pairs on a page at most
FAINT = 1e-4  # share of the whole below which what no position holds is not told
TITLES = {
    "loss-token": "Training example, by each token's own loss",
    "query-token": "Query, by token",
    "position": "Training example, by position",
}


@dataclass(frozen=True)
class Strong:
    """A token in the table of the strongest."""

    text: Markup
    score: str
    share: str
    css: str


@dataclass(frozen=True)
class Heat:
    """A text with coloured tokens; `largest` is the share of the darkest, `before` and `after` what the window leaves out."""

    title: str
    by: str
    text: Markup
    largest: str
    strongest: Sequence[Strong]
    before: str | None
    after: str | None
    elsewhere: str | None


@dataclass(frozen=True)
class Bar:
    """A layer's share; `width` in percent of the largest."""

    name: str
    score: str
    css: str
    width: float


@dataclass(frozen=True)
class Pair:
    """A training example and the query of this place, taken apart."""

    train_id: str
    score: str
    css: str
    word: str
    heats: Sequence[Heat]
    layers: Sequence[Bar]


def pairs_of(scores: Scores, column: int, limit: int = PAIRS) -> list[Pair]:
    """The pairs of one query that were taken apart, most helpful first; at most `limit`."""
    parts, query_id = scores.parts, scores.query_ids[column]
    if parts is None:
        return []
    known = [train_id for query, train_id in parts.pairs if query == query_id]
    found = [_pair(parts, query_id, train_id) for train_id in known[:limit]]
    return [pair for pair in found if pair is not None]


def _pair(parts: Parts, query_id: str, train_id: str) -> Pair | None:
    folds = [fold for by in parts.by if (fold := parts.find(query_id, train_id, by)) is not None]
    if not folds:
        return None
    total = folds[0].total
    css = "helpful" if total > 0 else "harmful"
    heats = [_heat(fold) for by in TITLES for fold in folds if fold.by == by]
    layers = [_bars(fold) for fold in folds if fold.by in ("layer", "module")]
    return Pair(train_id, format.number(total), css, css, heats, layers[0] if layers else [])


def _heat(fold: Fold) -> Heat:
    size = len(fold) - (fold.by == "position" and bool(len(fold)) and fold.names[-1] == ELSEWHERE)
    scores, total = fold.scores[:size], fold.total
    largest = float(np.abs(scores).max(initial=0.0))
    top = int(np.argmax(np.abs(scores))) if size else 0
    first = max(0, min(top - WINDOW // 2, size - WINDOW))
    last = min(size, first + WINDOW)
    pieces = [_piece(fold, j, largest) for j in range(first, last)]
    order = [int(j) for j in np.argsort(-np.abs(scores), kind="stable")[:STRONGEST] if scores[j] != 0]
    rest = float(fold.scores[size:].sum())
    return Heat(
        TITLES[fold.by],
        fold.by,
        Markup("").join(pieces),
        format.number(largest).lstrip("+"),
        [_strong(fold, j, total) for j in order],
        _left_out(scores[:first]),
        _left_out(scores[last:]),
        format.number(rest) if abs(rest) > FAINT * float(np.abs(scores).sum()) else None,
    )


def _piece(fold: Fold, j: int, largest: float) -> Markup:
    """One token: its text, escaped, in the colour of its level. White space in front of it stays uncoloured."""
    text, score = fold.names[j], float(fold.scores[j])
    level = round(LEVELS * abs(score) / largest) if largest else 0
    special = fold.starts[j] == fold.ends[j] and fold.starts[j] != NOWHERE
    space = text[: len(text) - len(text.lstrip())] if not special else ""
    body = Markup('<span class="code">{}</span>').format(plain(text)) if special else visible(text[len(space) :])
    if not level or not body:
        return visible(space) + body
    css = f"{'p' if score > 0 else 'n'}{level}"
    return visible(space) + Markup('<span class="{}" title="{}">{}</span>').format(css, format.number(score), body)


def _strong(fold: Fold, j: int, total: float) -> Strong:
    around = fold.names[max(0, j - 3) : j]
    before = "".join(name for k, name in enumerate(around, j - len(around)) if fold.starts[k] < fold.ends[k])
    text = Markup("<small>{}</small><strong>{}</strong>").format(visible(before[-40:]), visible(fold.names[j][:60]))
    score = float(fold.scores[j])
    share = format.percent_of(score, total)
    return Strong(text, format.number(score), share, "helpful" if score > 0 else "harmful")


def _left_out(scores: np.ndarray) -> str | None:
    if not len(scores):
        return None
    return f"{format.counted(len(scores), 'token')} left out here, together {format.number(float(scores.sum()))}"


def _bars(fold: Fold) -> list[Bar]:
    names, scores = (list(fold.names), fold.scores) if fold.by == "layer" else by_layer(fold.names, fold.scores)
    largest = float(np.abs(scores).max(initial=0.0)) or 1.0
    return [
        Bar(name, format.number(float(score)), "helpful" if score > 0 else "harmful", 100 * abs(float(score)) / largest)
        for name, score in zip(names, scores, strict=True)
    ]


def legend() -> Markup:
    """From the most harmful to the most helpful level."""
    css = [*(f"n{level}" for level in range(LEVELS, 0, -1)), "p0", *(f"p{level}" for level in range(1, LEVELS + 1))]
    return Markup("").join(Markup('<i class="{}"></i>').format(name) for name in css)


def levels_css() -> Markup:
    """The colours of all levels, mixed from the page's own, so that they follow its theme."""
    rules = [
        f".heat .{side}{level}, .legend .{side}{level} "
        f"{{ background: color-mix(in srgb, var(--{colour}) {round(58 * level / LEVELS)}%, transparent); }}"
        for side, colour in (("p", "helpful"), ("n", "harmful"))
        for level in range(1, LEVELS + 1)
    ]
    return Markup("\n".join(rules))  # written by us alone
