"""`assay value` on tables, and `assay clean`."""

from pathlib import Path

import numpy as np
import pytest
from tests.cli.helpers import json_lines, refused, run

import assay
from assay.methods import Shapley


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, Path]:
    random = np.random.default_rng(0)
    paths = []
    for name in ("data", "valid"):
        lines = ["age,job,source,income"]
        for k in range(24):
            job, age = random.choice(["clerk", "boss"]), random.normal(40, 10)
            lines.append(f"{age:.1f},{job},s{k % 2},{'high' if age + 20 * (job == 'boss') > 50 else 'low'}")
        paths.append(tmp_path / f"{name}.csv")
        paths[-1].write_text("\n".join(lines) + "\n", "utf-8")
    return paths[0], paths[1]


def test_a_table_is_valued_and_cleaned(tables: tuple[Path, Path], tmp_path: Path) -> None:
    data, valid = tables
    out, cleaned = tmp_path / "run", tmp_path / "cleaned.csv"
    words = ("value", data, "--label", "income", "--on", valid, "-m", "shapley", "--stop", "updates:4", "--seed", 1)
    run(*words, "--out", out, "--top", 2)
    values = assay.Values.load(out)
    train, goal = (assay.read(path, label="income") for path in tables)
    expected = assay.value("logistic", train, goal, Shapley(stop="updates:4", seed=1))
    np.testing.assert_array_equal(values.array, expected.array)
    page = (out / "report.html").read_text("utf-8")
    assert page.count("Its nearest in the training data") == 2
    assert "age=" in page
    lines = json_lines(run("clean", out, "--out", cleaned, "--share", "12.5%", "--json"))
    lowest = np.argsort(values.array, kind="stable")[:3]
    assert [line["row"] for line in lines[:-1]] == lowest.tolist()
    assert lines[-1]["flagged"] == 3
    left = [line for k, line in enumerate(data.read_text("utf-8").splitlines()) if k - 1 not in lowest]
    assert cleaned.read_text("utf-8").splitlines() == left
    assert "why" in (tmp_path / "cleaned.csv.flagged.csv").read_text("utf-8").splitlines()[0]
    refused("clean", out, "--out", cleaned, names=["overwritten"])
    shown = run("clean", out, "--below", "0").stdout.splitlines()
    assert shown[0].split() == ["lowest", "value", "stderr", "id", "label", "like", "it", "text"]
    assert "%" in shown[1]
    data.write_text(data.read_text("utf-8").replace("boss", "chef"), "utf-8")
    refused("clean", out, "--out", tmp_path / "again.csv", names=["no longer"])
    assert not (tmp_path / "again.csv").exists()


def test_groups_and_models_by_name(tables: tuple[Path, Path]) -> None:
    data, valid = tables
    lines = json_lines(
        run("value", "--train", data, "--label", "income", "--on", valid, "-m", "shapley", "--by", "source",
            "--model", "sklearn.neighbors:KNeighborsClassifier(n_neighbors=3)", "--json")
    )  # fmt: skip
    assert {line["train_id"] for line in lines[:-1]} == {"s0", "s1"}
    assert lines[-1]["run"]["inputs"]["estimator"].startswith("sklearn.neighbors")


def test_curves_stand_in_the_report(tables: tuple[Path, Path], tmp_path: Path) -> None:
    data, valid = tables
    words = ("value", data, "--label", "income", "--on", valid, "-m", "knn-shapley")
    run(*words, "--out", tmp_path / "run", "--curve", tmp_path / "curves")
    found = assay.Values.load(tmp_path / "run").evidence["curves"]
    assert found["counts"] == [1, 2, 5, 10]
    assert 'id="curves"' in (tmp_path / "run" / "report.html").read_text("utf-8")
    assert list((tmp_path / "curves").glob("*.safetensors"))
    refused(*words, "--curve", tmp_path / "curves", names=["--out"])
    refused(
        "value", data, "--label", "income", "--on", valid, "-m", "shapley", "--by", "source", "--out", tmp_path / "r",
        "--curve", tmp_path / "curves", names=["--by"],
    )  # fmt: skip


def test_what_is_refused(tables: tuple[Path, Path], tmp_path: Path) -> None:
    data, valid = tables
    value = ("value", data, "--label", "income", "--on", valid)
    refused("value", "--label", "income", "--on", valid, "-m", "shapley", names=["--train"])
    refused("value", data, "--label", "income", "-m", "shapley", names=["--on"])
    refused(*value, "-m", "shapley", "--model", "logit", names=["logit"])
    refused(*value, "-m", "shapley", "--stop", "soon", names=["soon"])
    refused(*value, "-m", "bm25", "--model", "knn", names=["--model"])
    refused("clean", tmp_path / "nowhere", names=["nowhere"])
