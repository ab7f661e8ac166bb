"""Plots as inline SVG whose colours and letters are the page's own, so that they follow its theme."""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from assay.explore.null import Null
from assay.explore.text import plain

# matplotlib writes literal colours; these stand for the page's, and are replaced in the finished SVG.
INK, SOFT, LINE, BAR = "#010101", "#020202", "#030303", "#040404"
HELPFUL, HARMFUL = "#050505", "#060606"
PAGE_COLOURS = {
    INK: "var(--ink)", SOFT: "var(--soft)", LINE: "var(--line)", BAR: "var(--bar)",
    HELPFUL: "var(--helpful)", HARMFUL: "var(--harmful)",
}  # fmt: skip
STYLE = {
    "svg.fonttype": "none", "text.parse_math": False, "font.size": 9, "text.color": INK,
    "axes.edgecolor": LINE, "axes.labelcolor": SOFT, "xtick.color": LINE, "ytick.color": LINE,
    "xtick.labelcolor": SOFT, "ytick.labelcolor": INK, "axes.spines.top": False, "axes.spines.right": False,
}  # fmt: skip
WIDTH = 6.8  # inches
BINS = 60  # at most; few scores get fewer, so that a bar can hold more than one
FAR = 25  # spreads; scores further out get an axis that is compressed towards its ends
COMPRESSED = 4  # spreads from the middle where the compression begins
MARGINS = {"left": 0.12, "right": 0.99, "bottom": 0.24, "top": 0.97}  # of a histogram, of which a report has many
METADATA = ("Creator", "Date", "Format", "Type")  # none of it: the same run gives the same page
LABEL = 44  # characters
POINTS = 300  # intervals drawn at most
LINES = ((HELPFUL, "-", "^"), (HARMFUL, "--", "v"), (BAR, ":", "o"))


@dataclass(frozen=True)
class Interval:
    """A mean with its interval (None: not known), to be drawn as a dot and a line; `first` is the method itself."""

    label: str
    mean: float
    low: float | None
    high: float | None
    first: bool = False


@dataclass(frozen=True)
class Line:
    """Points of a curve, and where there is one the band that it lies in."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


def distribution(scores: Float[np.ndarray, " n"], null: Null | None, name: str, label: str, description: str) -> Markup:
    """Histogram on a logarithmic scale of counts; the random null as a line, the reach of chance shaded.

    Not all scores may be equal.
    """
    with _drawing(name):
        figure, axes = _figure(2.1, MARGINS)
        edges = _binned(axes, scores, null)
        counts, _ = np.histogram(scores, edges)
        if null is not None:
            axes.axvspan(null.low, null.high, color=LINE, alpha=0.35, linewidth=0)
        middle = 0.5 * (edges[1:] + edges[:-1])
        for colour, side in ((HELPFUL, middle >= 0), (HARMFUL, middle < 0)):
            axes.stairs(np.where(side, counts, 0), edges, fill=True, color=colour, alpha=0.75)
        if null is not None:
            expected = null.expected(edges)
            drawn = expected > 0.1
            axes.plot(middle[drawn], expected[drawn], color=INK, linewidth=1.2, linestyle=(0, (4, 2)))
        axes.set_yscale("log")
        axes.set_ylim(0.3, max(2.0, 2.0 * float(counts.max())))
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_minor_locator(_no_ticks())
        axes.axvline(0, color=SOFT, linewidth=0.8)
        axes.set_xlabel(label)
        axes.set_ylabel("examples")
        axes.tick_params(axis="y", labelcolor=SOFT)
        return _svg(figure, name, description)


def intervals(rows: Sequence[Interval], name: str, label: str, description: str) -> Markup:
    """A dot and a line per row, in their order, on one axis with zero."""
    with _drawing(name):
        figure, axes = _figure(0.65 + 0.3 * len(rows))
        for height, row in enumerate(rows):
            colour = HELPFUL if row.first else BAR
            if row.low is not None and row.high is not None:
                axes.plot([row.low, row.high], [height, height], color=colour, linewidth=2, solid_capstyle="round")
            axes.plot([row.mean], [height], "o", color=colour, markersize=6)
        axes.axvline(0, color=SOFT, linewidth=0.8)
        axes.set_yticks(range(len(rows)), [_short(plain(row.label)) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="x", color=LINE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        axes.tick_params(length=0)
        axes.set_xlabel(label)
        return _svg(figure, name, description)


def curves(lines: Sequence[Line], name: str, across: str, up: str, description: str) -> Markup:
    """Lines over one axis, told apart by colour, dash and marker; the band of a line is shaded."""
    with _drawing(name):
        figure, axes = _figure(2.6)
        for line, (colour, dash, marker) in zip(lines, LINES, strict=False):
            if line.low is not None and line.high is not None:
                axes.fill_between(line.x, line.low, line.high, color=LINE, alpha=0.45, linewidth=0)
            axes.plot(
                line.x, line.y, color=colour, linestyle=dash, marker=marker, markersize=5, linewidth=1.6,
                label=_short(plain(line.label)),
            )  # fmt: skip
        axes.grid(color=LINE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.legend(frameon=False, labelcolor=INK)
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.tick_params(length=0, labelcolor=SOFT)
        return _svg(figure, name, description)


def ranked(
    values: Float[np.ndarray, " n"], errors: Float[np.ndarray, " n"], name: str, label: str, description: str
) -> Markup:
    """Values from the highest to the lowest with an interval of `errors` to both sides; of very many a part, both ends in it.

    Those whose interval lies above zero, below it, and across it have different colours and markers.
    """
    order = np.argsort(-values, kind="stable")
    places = np.unique(np.round(np.linspace(0, len(order) - 1, min(len(order), POINTS))).astype(np.int64))
    middle, reach = values[order[places]], errors[order[places]]
    sides = ((HELPFUL, "^", middle > reach), (HARMFUL, "v", middle < -reach), (BAR, "o", np.abs(middle) <= reach))
    with _drawing(name):
        figure, axes = _figure(2.4)
        for colour, marker, chosen in sides:
            at, height, apart = places[chosen] + 1, middle[chosen], reach[chosen]
            axes.vlines(at, height - apart, height + apart, color=colour, linewidth=1.2, alpha=0.6)
            axes.plot(at, height, marker, color=colour, markersize=3)
        axes.axhline(0, color=SOFT, linewidth=0.8)
        axes.set_xlabel("rank")
        axes.set_ylabel(label)
        axes.tick_params(length=0, labelcolor=SOFT)
        return _svg(figure, name, description)


def groups(
    parts: Sequence[tuple[str, Float[np.ndarray, " _"]]], null: Null | None, name: str, label: str, description: str
) -> Markup:
    """A histogram a row on one axis, each as high as its own largest bar; not all numbers may be equal."""
    with _drawing(name):
        figure, axes = _figure(0.7 + 0.42 * len(parts))
        edges = _binned(axes, np.concatenate([numbers for _, numbers in parts]), null)
        middle = 0.5 * (edges[1:] + edges[:-1])
        for row, (_, numbers) in enumerate(parts):
            counts, _ = np.histogram(numbers, edges)
            foot = row + 0.4
            tops = foot - 0.8 * counts / max(1, int(counts.max()))
            for colour, side in ((HELPFUL, middle >= 0), (HARMFUL, middle < 0)):
                axes.stairs(np.where(side, tops, foot), edges, baseline=foot, fill=True, color=colour, alpha=0.75)
            axes.axhline(foot, color=LINE, linewidth=0.6)
        axes.axvline(0, color=SOFT, linewidth=0.8)
        axes.set_yticks(range(len(parts)), [_short(plain(part)) for part, _ in parts])
        axes.set_ylim(len(parts) - 0.5, -0.5)
        axes.spines["left"].set_visible(False)
        axes.tick_params(length=0)
        axes.set_xlabel(label)
        return _svg(figure, name, description)


def _binned(axes: Any, scores: Float[np.ndarray, " n"], null: Null | None) -> np.ndarray:
    """Edges of bars; scores far outside the null's spread get an axis that is compressed towards its ends."""
    compressed = null is not None and float(np.abs(scores - null.median).max()) > FAR * null.spread
    if null is not None and compressed:
        axes.set_xscale("asinh", linear_width=COMPRESSED * null.spread)
    return _edges(scores, null if compressed else None)


def _edges(scores: Float[np.ndarray, " n"], null: Null | None) -> np.ndarray:
    """Edges of equal width, one of them zero so that no bar mixes helpful and harmful.

    With a null, the width is equal on the axis that is compressed by it.
    """
    low, high = float(scores.min()), float(scores.max())
    scale = 1.0 if null is None else COMPRESSED * null.spread
    if null is not None:
        low, high = float(np.arcsinh(low / scale)), float(np.arcsinh(high / scale))
    width = (high - low) / min(BINS, max(12, int(2 * np.sqrt(len(scores)))))
    steps = np.arange(int(np.floor(low / width)), int(np.ceil(high / width)) + 1, dtype=np.float64)
    edges = width * steps if null is None else scale * np.sinh(width * steps)
    edges[0], edges[-1] = min(edges[0], scores.min()), max(edges[-1], scores.max())  # rounding must lose no score
    return edges


def _short(text: str) -> str:
    return text if len(text) <= LABEL else text[: LABEL - 1] + "…"


def _drawing(name: str) -> Any:
    """Our style, and ids that differ between the plots of a page and not between two runs."""
    import matplotlib

    return matplotlib.rc_context(cast(Any, {**STYLE, "svg.hashsalt": name}))


def _figure(height: float, margins: Mapping[str, float] | None = None) -> tuple[Any, Any]:
    """A figure with one axis; without margins they are fitted to what stands there, which takes as long as drawing it."""
    # Not at the top: importing assay stays light. The figure is made without pyplot, which keeps global state.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout=None if margins else "constrained")
    if margins:
        figure.subplots_adjust(**margins)
    return figure, cast(Any, figure.add_subplot())


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()


def _svg(figure: Any, name: str, description: str) -> Markup:
    """The figure as an element for an HTML page; matplotlib escapes the texts in it."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # widths are guessed; the browser has the glyph
        figure.savefig(buffer, format="svg", transparent=True, metadata=dict.fromkeys(METADATA))
    drawn = buffer.getvalue()
    body = drawn[drawn.index(">", drawn.index("<svg")) + 1 : drawn.rindex("</svg>")]
    # What is only metadata, and styles, which would hold for the whole page; report.css has them for plots.
    body = re.sub(r"<(metadata|style)\b.*?</\1>", "", body, flags=re.S)
    body = re.sub(r'(<g) id="[^"]*"', r"\1", body)  # such as figure_1: the same in every plot
    body = body.replace("xlink:href", "href")
    body = re.sub(r"font: ([\d.]+px)[^;\"<]*", r"font: \1 var(--font)", body)
    for colour, replacement in PAGE_COLOURS.items():
        body = body.replace(f": {colour}", f": {replacement}")
    size = drawn[drawn.index("viewBox=") :].split('"')[1]
    opening = Markup(
        '<svg class="plot" role="img" aria-labelledby="{0}-title" viewBox="{1}"><title id="{0}-title">{2}</title>'
    )
    return opening.format(name, size, plain(description)) + Markup(body + "</svg>")
