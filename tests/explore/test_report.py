import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assay.errors import InputError, StorageError
from assay.explore import report
from assay.explore.text import plain
from assay.provenance import Provenance
from assay.ranking import TopK
from assay.scores import Scores
from assay.tables import Table
from assay.values import Values

VOID = {"meta", "link", "br", "hr", "img", "input"}
TEXTS = ["the dragon slept", "a house", "the dragon woke up", "nothing", "rain & <b>snow</b>", "wind"]
HOSTILE = [
    "<script>alert('1')</script> & \"quotes\" {{ 7 * 7 }} {% raw %} {# c #} <!-- ]]> </style>",
    "\u202eright-to-left\u202c \u2066isolate\u2069 \u200bzero",
    "nul \x00 bell \x07 \x1b[31m",
    "lone \ud800 surrogate \udfff",
    "x" * 1_000_000,
    "<img src=x onerror=alert(1)> javascript:alert(1)",
]


@dataclass
class Node:
    tag: str
    attrs: dict[str, str | None]
    children: list["Node | str"] = field(default_factory=list)

    def all(self, tag: str | None = None, css: str | None = None) -> list["Node"]:
        return [
            node
            for node in self.walk()
            if tag in (None, node.tag) and (css is None or css in (node.attrs.get("class") or "").split())
        ]

    def walk(self) -> Iterator["Node"]:
        for child in self.children:
            if isinstance(child, Node):
                yield child
                yield from child.walk()

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)


class Tree(HTMLParser):
    """A tree of a page in which every element is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Node("", {})
        self.open = [self.root]
        self.feed(html)
        self.close()
        assert self.open == [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, dict(attrs))
        assert len(node.attrs) == len(attrs)
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Node(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")


def page(result: Any, tmp_path: Path, **options: Any) -> Node:
    out = report(result, tmp_path / "page.html", **options)
    html = out.read_text("utf-8")
    root = Tree(html).root
    check_closed(html, root)
    return root


def check_closed(html: str, root: Node) -> None:
    """Nothing of the page leads out of it or runs."""
    assert html.startswith("<!DOCTYPE html>\n<html lang=")
    (policy,) = (n for n in root.all("meta") if n.attrs.get("http-equiv") == "Content-Security-Policy")
    assert (policy.attrs["content"] or "").startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")
    allowed = """html head meta link title style body header main footer nav section article h1 h2 h3 h4 p strong em
        small span bdi i mark a code pre div ul ol li dl dt dd details summary table caption thead tbody tr th td figure
        figcaption svg g path defs clippath rect use text"""
    assert {node.tag for node in root.walk()} <= set(allowed.split())
    ids = [node.attrs["id"] for node in root.walk() if "id" in node.attrs]
    assert len(ids) == len(set(ids))
    for node in root.walk():
        for name, value in node.attrs.items():
            assert not name.startswith("on")
            assert name not in {"src", "srcset", "action", "data", "xlink:href"}
            if name == "href":
                assert value == "data:," or (value or "")[1:] in ids
            if name == "style":
                assert not re.search(r"url\((?!#)|import|expression", value or "")
    (style,) = root.all("style")
    assert not re.search(r"url\(|@import|https?:", style.text)
    assert not re.search(r"[\u202a-\u202e\u2066-\u2069\u200b\ufeff\x00-\x08\x0b-\x1f]", html)
    for table in root.all("table"):
        assert table.all("caption")
        assert all(cell.attrs.get("scope") in {"col", "row"} for cell in table.all("th"))
    for plot in root.all("svg"):
        assert plot.attrs["role"] == "img"
        assert plot.all("title")[0].text


def provenance(**more: Any) -> Provenance:
    given: dict[str, Any] = {
        "method": "graddot",
        "parameters": {"compression": "factored:16", "modules": None, "seed": 0, "flag": False},
        "unit": "arbitrary",
        "inputs": {"model": "my model/", "train": "train.jsonl", "queries": "q.jsonl"},
        "coverage": 0.971,
        "seconds": 83.2,
        "peak_memory": 1_900_000_000,
        "model_fingerprint": "abc",
        "notes": ("3 examples were cut.",),
    }
    return Provenance(**{**given, **more})


def table(texts: list[str], sources: list[str | None] | None = None, stem: str = "t", **columns: Any) -> Table:
    n = len(texts)
    ids = [f"{stem}{i}" for i in range(n)]
    return Table(ids, sources or [None] * n, texts, np.arange(n), n, columns)


ARRAY = np.array([[3.0, 0], [0, -1], [4, 2], [-1, 0], [-5, 3], [0, 0]], np.float32)


def dense(**more: Any) -> Scores:
    train = table(TEXTS, ["myth", "myth", "myth", None, "weather", "weather"])
    queries = table(["Where is one dragon?", "snow"], ["myth", None], "q", loss=[2.5, None])
    return Scores.of(ARRAY, train, queries, provenance(**more))


def shown(side: Node) -> list[tuple[str, str, str, str]]:
    parts = [[item.all(css=css)[0].text for css in ("rank", "score", "id", "text")] for item in side.all("li")]
    return [(rank, score, identity, text) for rank, score, identity, text in parts]


def test_helpful_and_harmful_examples_stand_side_by_side_in_order(tmp_path: Path) -> None:
    first, second = page(dense(), tmp_path, top=2).all("article")
    (sides,) = first.all("div", "sides")
    helpful, harmful = sides.all("section")
    assert [node.all("h4")[0].text for node in (helpful, harmful)] == ["Helpful", "Harmful"]
    assert shown(helpful) == [("1", "+4", "t2", TEXTS[2]), ("2", "+3", "t0", TEXTS[0])]
    assert shown(harmful) == [("1", "−5", "t4", TEXTS[4]), ("2", "−1", "t3", TEXTS[3])]
    assert [node.text for node in helpful.all(css="source")] == ["myth", "myth"]
    assert [node.text for node in harmful.all(css="source")] == ["weather"]
    assert [node.text for node in first.all("mark")] == ["dragon", "dragon"]
    assert [item[2] for item in shown(second.all("section", "helpful")[0])] == ["t4", "t2"]
    assert "loss 2.500" in first.text
    assert "loss" not in second.all("div", "asked")[0].text


def test_a_top_k_page_shows_the_same_examples(tmp_path: Path) -> None:
    scores = dense()
    kept = Scores.of(TopK.of_columns(ARRAY.T, 2), scores.train, scores.queries, scores.provenance)
    pages = [page(result, tmp_path, top=2) for result in (scores, kept)]
    found = [[shown(side) for side in root.all("section", "side")] for root in pages]
    assert found[0] == found[1]
    assert "there is no distribution" in pages[1].text
    assert "--top 2 --out RUN" in pages[1].all("pre")[0].text


def test_a_side_without_examples_says_so(tmp_path: Path) -> None:
    scores = Scores.of(np.ones((2, 1)), table(["a", "b"]), table(["q"], stem="q"), provenance())
    root = page(scores, tmp_path)
    assert "No training example has a score below zero" in root.all("section", "harmful")[0].text
    assert "All scores are equal" in root.text


def test_the_run_in_words(tmp_path: Path) -> None:
    root = page(dense(), tmp_path)
    head = root.all("header")[0].text
    assert "Which of 6 training examples helped or harmed on these 2 queries?" in head
    for words in ("graddot: inner product", "higher = more helpful", "training on it lowered", "only the order"):
        assert words in head
    assert "3 examples were cut." in head
    facts = {div.all("dt")[0].text: div.all("dd")[0].text for div in root.all("dl")[0].all("div")}
    assert facts["coverage"] == "97.1% of the model's trainable parameters took part"
    assert facts["time"] == "1 min 23 s"
    assert facts["peak memory"] == "1.77 GiB"
    assert facts["train"] == "train.jsonl 6 examples"
    assert [div.all("dt")[0].text for div in root.all("div", "warn")] == ["coverage"]
    assert root.all("pre")[0].text == (
        "assay attribute 'my model/' --train train.jsonl --queries q.jsonl --method graddot --compression factored:16 "
        "--seed 0 --no-flag --out RUN"
    )
    assert "abc" in root.all("section")[0].text


def test_data_from_memory_has_no_command(tmp_path: Path) -> None:
    assert not page(dense(inputs={"train": "list", "queries": "q.jsonl"}), tmp_path).all("pre")


def test_sources_are_compared_with_their_size(tmp_path: Path) -> None:
    root = page(dense(), tmp_path, top=2)
    (section,) = (node for node in root.all("section") if node.attrs.get("id") == "sources")
    rows = [[cell.text for cell in row.children if isinstance(cell, Node)] for row in section.all("tbody")[0].all("tr")]
    assert rows[0] == ["myth", "3", "+2.67 ± 2.03", "+8", "3 (2 by size)", "1"]
    assert [row[0] for row in rows] == ["myth", "no source", "weather"]
    first = root.all("article")[0]
    assert "Of the 2 most helpful examples, 2 are from the query's own source (by its size alone: 1)." in first.text


def test_evidence_is_a_table_and_a_plot(tmp_path: Path) -> None:
    assert "Nothing was checked" in page(dense(), tmp_path).text
    rows = [{"set": "graddot top 10", "mean": -0.121, "low": -0.15, "high": -0.09, "n": 4}]
    root = page(dense().with_evidence(one_step={"rows": rows, "k": 10, "text": "One <b>step</b>."}), tmp_path)
    (section,) = (node for node in root.all("section") if node.attrs.get("id") == "evidence")
    assert [cell.text for cell in section.all("tbody")[0].all("td")] == ["−0.121", "−0.15 to −0.09", "4"]
    assert "graddot top 10" in [node.text for node in section.all("text")]
    assert "One <b>step</b>." in section.text
    assert "Nothing was checked" not in root.text


def test_examples_that_help_every_query_are_pointed_out(tmp_path: Path) -> None:
    array = np.tile(np.array([[2.0], [1.0], [-1.0]]), (1, 4))
    scores = Scores.of(array, table(["a", "b", "c"]), table(["q"] * 4, stem="q"), provenance())
    text = page(scores, tmp_path).all("article")[0].text
    assert "2 are also among those of at least half of the other queries: they say little" in text


def test_hostile_texts_ids_sources_and_notes_are_shown_as_text(tmp_path: Path) -> None:
    n = len(HOSTILE)
    names = [f"{text[:60]}{i}" for i, text in enumerate(HOSTILE)]
    train = Table([f"id{name}" for name in names], names, HOSTILE, np.arange(n), n)
    queries = Table(names, names, HOSTILE, np.arange(n), n, {"loss": [1.0] * n})
    scores = Scores.of(
        np.random.default_rng(0).standard_normal((n, n)), train, queries,
        provenance(
            method="<b>\u202e", parameters={"<k>": HOSTILE[1]}, unit="<u>\ud800", notes=tuple(HOSTILE),
            inputs={"train": "<t>.\u2066", "queries": "q.\ud800", "<model>": HOSTILE[0]}, versions={"<v>": HOSTILE[0]},
        ),
    )  # fmt: skip
    scores = scores.with_evidence(one_step={"rows": [{"set": HOSTILE[0], "mean": 1}], "<k>": "\u202e", "text": "\x00"})
    root = page(scores, tmp_path)
    examples = [node.text for node in root.all(css="examples")[0].all(css="text")] + [
        node.text for node in root.all(css="examples")[1].all(css="text")
    ]
    for text in HOSTILE:
        wanted = plain(text) if len(text) < 100 else "x" * 400 + " …"
        assert wanted in examples
    found = {node.text for node in root.all("bdi")}
    for name in names:
        assert {plain(name), plain(f"id{name}")} <= found
    assert all(node.attrs.get("dir") == "auto" for node in root.all("div", "text"))
    assert plain(HOSTILE[1]) in root.all("ul", "notes")[0].text


def test_long_texts_and_names_are_cut_with_counts(tmp_path: Path) -> None:
    train = Table(["i" * 5_000], [None], ["y" * 1_000_000], np.arange(1), 1)
    root = page(Scores.of(np.ones((1, 1)), train, table(["q" * 50_000], stem="q"), provenance()), tmp_path)
    assert os.path.getsize(tmp_path / "page.html") < 100_000
    assert "996,000 characters left out" in root.all("li")[-1].text
    assert "(4,840 more characters)" in root.all("li")[-1].text
    assert "46,000 characters left out" in root.all("div", "asked")[0].text


def test_many_queries_are_cut_with_a_count(tmp_path: Path) -> None:
    scores = Scores.of(np.ones((2, 130)), table(["a", "b"]), table(["q"] * 130, stem="q"), provenance())
    root = page(scores, tmp_path)
    assert len(root.all("article")) == 100
    assert "first 100 queries are shown; 30 more" in root.text


def test_values_show_both_ends(tmp_path: Path) -> None:
    train = table(TEXTS, ["a", "a", "b", "b", None, None])
    values = Values.of(np.array([3.0, -2, 0, 1, -4, 2]), train, provenance(), stderr=np.full(6, 0.5))
    root = page(values, tmp_path, top=2)
    most, least = root.all("div", "sides")[0].all("section")
    assert shown(most) == [("1", "+3 ± 0.5", "t0", TEXTS[0]), ("2", "+2 ± 0.5", "t5", TEXTS[5])]
    assert shown(least) == [("1", "−4 ± 0.5", "t4", TEXTS[4]), ("2", "−2 ± 0.5", "t1", TEXTS[1])]
    assert "What is each of 6 training examples worth?" in root.all("h1")[0].text
    assert "6 values from −4 to +3, 1 of them zero" in root.all("figcaption")[-1].text
    assert not root.all("article")


@pytest.mark.parametrize("n_train", [0, 1])
def test_tiny_runs_have_a_page(n_train: int, tmp_path: Path) -> None:
    train = table(["a"][:n_train])
    page(Scores.of(np.ones((n_train, 1)), train, table(["q"], stem="q"), provenance()), tmp_path)
    page(Scores.of(np.ones((n_train, 0)), train, table([]), provenance()), tmp_path)
    page(Values.of(np.ones(n_train), train, provenance()), tmp_path)


@pytest.mark.parametrize("kind", ["scores", "values"])
def test_a_saved_run_gives_the_same_page(kind: str, tmp_path: Path) -> None:
    scores = dense()
    result = scores if kind == "scores" else Values.of(ARRAY[:, 0], scores.train, scores.provenance)
    result.save(tmp_path / "run")
    one = report(result, tmp_path / "one.html").read_bytes()
    assert report(str(tmp_path / "run"), str(tmp_path / "two.html")).read_bytes() == one
    assert report(tmp_path / "run", tmp_path / "one.html").read_bytes() == one
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.html", "run", "two.html"]


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none is not a directory"):
        report(tmp_path / "none", tmp_path / "page.html")
    with pytest.raises(InputError, match="it is a directory"):
        report(dense(), tmp_path)
    with pytest.raises(InputError, match="at least 1"):
        report(dense(), tmp_path / "page.html", top=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Cannot write"):
        report(dense(), tmp_path / "file" / "page.html")
    with pytest.raises(InputError, match="not in the expected form"):
        report(dense().with_evidence(one_step=1), tmp_path / "page.html")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
