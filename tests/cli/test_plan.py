"""`assay plan`: the arguments of the commands that it plans."""

from pathlib import Path

import pytest
from tests.cli.helpers import json_lines, run


@pytest.mark.parametrize(
    "words",
    [
        ("--queries", "Q", "--top", "3", "--check", "2", "--out", "RUN", "--no-report", "--limit", "4"),
        ("--queries", "Q", "--method", "trak", "--compression", "sjlt:64"),
        ("--store", "int8", "--compression", "factored:4", "--out", "RUN", "--append", "examples"),
        ("--method", "self-influence"),
    ],
)
def test_a_command_is_planned_by_its_own_arguments(
    model: Path, train: Path, queries: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    here = [str(queries) if word == "Q" else str(tmp_path / "run") if word == "RUN" else word for word in words]
    ((line,)) = json_lines(run("plan", model, "--train", train, *here, "--json"))
    assert line["plan"]["seconds"] > 0
    assert line["plan"]["coverage"] == 1
    assert not (tmp_path / "run").exists()
    shown = run("plan", model, "--train", train, *here).stdout
    assert f"{line['plan']['method']}, predicted:" in shown
    assert "peak memory" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_words_need_no_model(train: Path, queries: Path) -> None:
    assert "coverage" not in run("plan", "--train", train, "--queries", queries, "-m", "bm25").stdout
