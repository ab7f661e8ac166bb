import re
from xml.etree import ElementTree

import numpy as np
import pytest

from assay.explore import plots
from assay.explore.null import Null
from assay.explore.plots import Interval, distribution, intervals

RNG = np.random.default_rng(0)
TAILED = np.concatenate([RNG.standard_normal(500), [9.0, -7.0]]).astype(np.float32)
HOSTILE = '$x^2$ <script>alert(1)</script> & "q" \u202e\x00 猫 font: 9px x'


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in parse(svg).iter("text")]


@pytest.mark.parametrize(
    "scores",
    [
        TAILED,
        np.float32([1, 2, 2]),
        np.float32([0, 0, 0, 5]),
        TAILED * 1e-30,
        np.append(TAILED, 1e9).astype(np.float32),
    ],
)
def test_a_distribution_is_one_element_in_the_colours_of_the_page(scores: np.ndarray) -> None:
    svg = distribution(scores, Null.of(scores), "scores-1", "score", "what it shows")
    root = parse(svg)
    assert root.tag == "svg"
    assert root.get("role") == "img"
    assert root[0].tag == "title"
    assert root[0].text == "what it shows"
    assert root[0].get("id") == root.get("aria-labelledby")
    assert "var(--helpful)" in svg
    assert not re.search(r"#[0-9a-f]{6}\b", svg.replace("#ffffff", ""))
    assert not re.search(r"https?:|<metadata|<image", svg)


def test_the_same_scores_give_the_same_plot_and_another_name_other_ids() -> None:
    one, again, other = (distribution(TAILED, Null.of(TAILED), name, "score", "") for name in ("a", "a", "b"))
    assert one == again
    ids = [set(re.findall(r'id="([^"]+)"', svg)) for svg in (one, other)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for svg, known in zip((one, other), ids, strict=True):
        assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg)) <= known


@pytest.mark.parametrize("null", [None, Null.of(TAILED)])
def test_bars_hold_every_score_and_none_mixes_the_sides(null: Null | None) -> None:
    edges = plots._edges(TAILED, null)
    assert (np.diff(edges) > 0).all()
    assert np.histogram(TAILED, edges)[0].sum() == len(TAILED)
    assert 0.0 in edges


def test_intervals_write_labels_as_they_are() -> None:
    rows = [Interval(HOSTILE, -0.5, -1.0, 0.1, first=True), Interval("random", 0.0, None, None)]
    svg = intervals(rows, "evidence", "nats", HOSTILE)
    assert "random" in texts(svg)
    assert any(text.startswith("$x^2$ <script>") for text in texts(svg))
    assert "<script" not in svg
    assert "⟦U+202E⟧" in parse(svg)[0].text


def closed(svg: str) -> None:
    """One element with a title, in the page's colours, without anything from elsewhere."""
    root = parse(svg)
    assert (root.tag, root.get("role"), root[0].tag) == ("svg", "img", "title")
    assert not re.search(r"#[0-9a-f]{6}\b", svg.replace("#ffffff", ""))
    assert not re.search(r"https?:|<script|<metadata|<image", svg)


def test_curves_are_told_apart_without_colour() -> None:
    lines = [plots.Line(HOSTILE, [0, 1, 2], [1.0, 2.0, 4.0]), plots.Line("lowest", [0, 1, 2], [1.0, 1.0, 1.0]),
             plots.Line("random", [0, 1, 2], [1.0, 1.5, 2.0], [1.0, 1.2, 1.5], [1.0, 1.8, 2.5])]  # fmt: skip
    svg = plots.curves(lines, "curves", "examples removed", "mean loss", "what it shows")
    closed(svg)
    assert {"lowest", "random", "examples removed"} <= set(texts(svg))
    assert any(text.startswith("$x^2$ <script>") for text in texts(svg))
    dashes = set(re.findall(r"stroke-dasharray: ([\d. ,]+)", svg))
    assert len(dashes) == 2


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_ranked_values_have_their_sides_and_a_bounded_size(count: int) -> None:
    values = np.linspace(-2.0, 3.0, count) if count > 1 else np.array([0.0])
    svg = plots.ranked(values, np.full(count, 0.5), "values", "value", "")
    closed(svg)
    assert ("var(--helpful)" in svg) == ("var(--harmful)" in svg) == (count > 1)
    assert len(svg) < 150_000


def test_groups_have_a_row_each_on_one_axis() -> None:
    svg = plots.groups([(HOSTILE, TAILED), ("b", np.float32([-1, 1]))], Null.of(TAILED), "sources", "value", "")
    closed(svg)
    assert "b" in texts(svg)
    assert any(text.startswith("$x^2$ <script>") for text in texts(svg))
    one, other = svg.count("var(--helpful)"), svg.count("var(--harmful)")
    assert one == other >= 2
