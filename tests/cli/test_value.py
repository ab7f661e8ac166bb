"""`assay value` and `assay report`."""

from pathlib import Path

import numpy as np
import pytest
from tests.cli.helpers import json_lines, run

import assay


def test_values_of_a_method_that_needs_no_goal(model: Path, train: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shown = run("value", model, "--train", train, "--out", out, "--top", 2).stdout
    expected = assay.value(assay.load(model), train)
    np.testing.assert_allclose(assay.Values.load(out).array, expected.array)
    assert (out / "report.html").exists()
    heads = [line.split() for line in shown.splitlines() if line.startswith(("highest", " lowest", "lowest"))]
    assert [head[:2] for head in heads] == [["highest", "value"], ["lowest", "value"]]
    assert "self-influence: 6 training examples" in shown


def test_values_for_a_goal(train: Path, queries: Path) -> None:
    lines = json_lines(run("value", "--train", train, "--on", queries, "-m", "bm25", "--json", "--top", 2))
    expected = assay.value(None, train, queries, "bm25").top(2)
    assert [line["train_id"] for line in lines[:-1]] == list(expected["train_id"])
    assert [line["value"] for line in lines[:-1]] == pytest.approx(list(expected["value"]))
    assert lines[-1]["run"]["method"] == "bm25"


def test_a_report_of_a_saved_run(train: Path, queries: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "run", tmp_path / "page.html"
    run("attribute", "-m", "bm25", "--train", train, "--queries", queries, "--out", out, "--no-report")
    assert not (out / "report.html").exists()
    run("report", out, "--out", page)
    assert "<html" in page.read_text("utf-8")
    run("report", out)
    assert (out / "report.html").exists()
