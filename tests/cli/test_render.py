"""What strangers wrote is shown and does nothing; the page fits its width."""

import json
from pathlib import Path

import pytest
from rich.text import Text
from tests.cli.helpers import json_lines, run, write

from assay.cli.render import inline

HOSTILE = "\x1b[2J\x1b]0;title\x07 \x9b31m [bold red]markup[/] \u202eevil\u2066 <script>alert(1)</script> \x00 \r over"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    rows = [{"text": f"the cat {HOSTILE}", "source": f"s{HOSTILE}", "id": f"i{k}{HOSTILE}"} for k in range(2)]
    return write(tmp_path / "hostile.jsonl", rows)


def test_no_control_character_gets_through(hostile: Path) -> None:
    shown = run("attribute", "-m", "bm25", "--train", hostile, "--queries", hostile).stdout
    assert "U+001B" in shown
    assert "[bold red]markup[/]" in shown
    bad = [c for c in shown if (not c.isprintable() and c != "\n") or c in "\u202e\u2066\x9b"]
    assert bad == []


def test_json_keeps_the_text_and_is_ascii(hostile: Path) -> None:
    done = run("attribute", "-m", "bm25", "--train", hostile, "--queries", hostile, "--json")
    assert done.stdout.isascii()
    assert all(c.isprintable() or c == "\n" for c in done.stdout)
    assert json_lines(done)[0]["text"] == f"the cat {HOSTILE}"


def test_a_value_may_be_negative_and_missing_columns_are_left_out(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [{"text": f"the cat {k}"} for k in range(3)])
    shown = run("attribute", "-m", "random", "--train", train, "--queries", train).stdout
    assert "source" not in shown
    heads = [line.split() for line in shown.splitlines() if line.startswith(("helpful", "harmful"))]
    assert {tuple(head) for head in heads} <= {("helpful", "score", "id", "text"), ("harmful", "score", "id", "text"),
                                               ("helpful", "none"), ("harmful", "none")}  # fmt: skip


def test_inline() -> None:
    assert inline("  the\n\n cat\t") == Text("the cat")
    assert inline("the cat sat", 7).plain == "the cat…"
    assert len(inline("x" * 10_000_000, 10).plain) == 11
    assert inline(" " * 10_000_000 + "end", 10).plain == "…"


@pytest.mark.parametrize("width", [80, 200, 40])
def test_lines_fit(hostile: Path, width: int) -> None:
    shown = run("attribute", "-m", "bm25", "--train", hostile, "--queries", hostile, COLUMNS=str(width)).stdout
    assert max(map(len, shown.splitlines())) <= width


def test_numbers_are_plain_json() -> None:
    for line in run("methods", "--json").stdout.splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(name))
