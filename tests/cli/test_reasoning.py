"""`assay reasoning` and `assay reweight`: from solved problems to sampling weights on disk; and what they refuse."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.cli.helpers import json_lines, refused, run, write

import assay

ROWS = [
    {
        "prompt": f"the {a}",
        "completion": f" {b} the mat . I saw you .",
        "source": "math" if a == "cat" else "code",
        "label": level,
    }
    for a, levels in (("cat", (1, 1, 1, 2)), ("big dog", (1, 2, 2, 2)))
    for level, b in zip(levels, ("sat on", "saw", "ran under", "and"), strict=True)
]
PROBLEMS = [
    {"prompt": "the dog sat", "completion": " under the tree .", "source": "math", "solved": True},
    {"prompt": "a cat", "completion": " saw the red mat", "source": "code", "solved": True},
    {"prompt": "hello", "completion": " who are you", "source": "math", "solved": False},
]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "rows.jsonl", ROWS)


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "problems.jsonl", PROBLEMS)


@pytest.fixture(scope="module")
def traced(model: Path, rows: Path, problems: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    shown = run("reasoning", model, "--train", rows, "--on", problems, "--rows", 4, "--out", out)
    assert "2 of 3 problems are marked as solved" in shown.stderr
    assert "Influence by kind of token" in shown.stdout
    return out


def test_a_run_holds_values_and_tables(traced: Path, model: Path, rows: Path) -> None:
    values = assay.Values.load(traced)
    expected = assay.value(assay.load(model), assay.read(rows), PROBLEMS[:2], "infra")
    np.testing.assert_allclose(values.array, expected.array, rtol=1e-5)
    assert {"token_class", "sentence_role", "difficulty", "origin"} <= set(values.evidence)
    assert "Influence by domain and difficulty" in (traced / "report.html").read_text("utf-8")
    assert (traced / "tokens.parquet").exists()


def test_the_flip_is_written(traced: Path, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "weights.jsonl"
    shown = run("reweight", traced, "--with", "flip", "--all", "--out", out)
    assert "Flipped: math, code." in shown.stdout
    lines = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [line["id"] for line in lines] == list(assay.read(rows).ids)
    assert [line["weight"] for line in lines] == pytest.approx([1 / 3] * 3 + [3] + [3] + [1 / 3] * 3)
    *bins, facts = json_lines(run("reweight", traced, "--with", "flip", "--all", "--weights", out, "--json"))
    assert [(row["before"], row["after"]) for row in bins] == [
        pytest.approx(p) for p in ((1, 3), (3, 1), (3, 1), (1, 3))
    ]
    assert facts["flipped"] == ["math", "code"]
    chosen = json_lines(run("reweight", traced, "--with", "flip", "--json"))[-1]["flipped"]
    assert set(chosen) <= {"math", "code"}


def test_what_is_refused(model: Path, traced: Path, rows: Path, train: Path, tmp_path: Path) -> None:
    none = write(tmp_path / "none.jsonl", [row | {"solved": False} for row in PROBLEMS])
    refused("reasoning", model, "--train", rows, "--on", none, names=["None of the 3 problems", "none.jsonl"])
    odd = write(tmp_path / "odd.jsonl", [row | {"solved": "maybe"} for row in PROBLEMS])
    refused("reasoning", model, "--train", rows, "--on", odd, names=["'solved'", "true or false"])
    never = write(tmp_path / "never.jsonl", [{"prompt": "the", "completion": " hello who hello who hello who"}])
    refused("reasoning", model, "--train", rows, "--on", never, "--check", names=["solves none of the 1 problems"])
    refused("reasoning", "--train", rows, "--on", rows, names=["needs a model"])
    refused("reasoning", model, "--train", train, "--on", rows, "--difficulty", "label", names=["needs a number"])
    (tmp_path / "there").write_text("x", "utf-8")
    refused("reweight", traced, "--with", "flip", "--out", tmp_path / "there", names=["nothing is overwritten"])
    refused("reweight", traced, "--with", "flip", "--train", train, names=["is not, or no longer"])
    refused("reweight", traced, "--with", "bids", names=["bids"])
