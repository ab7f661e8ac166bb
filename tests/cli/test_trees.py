"""`assay attribute` and `assay value` with the file of a tree ensemble and tables."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.cli.helpers import json_lines, refused, run

lightgbm = pytest.importorskip("lightgbm")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"age": rng.normal(size=120), "job": rng.choice(["clerk", "smith", "cook"], 120)})
    frame.loc[:5, "age"] = np.nan
    frame["pay"] = np.where(frame["age"].fillna(0) + (frame["job"] == "cook") > 0.2, "high", "low")
    frame["w"] = rng.integers(1, 3, 120)
    X = frame[["age", "job"]].astype({"job": "category"})
    model = lightgbm.LGBMClassifier(n_estimators=5, verbose=-1, min_child_samples=5)
    model.fit(X, frame["pay"], sample_weight=frame["w"]).booster_.save_model(tmp_path / "model.txt")
    frame.to_csv(tmp_path / "train.csv", index=False)
    frame.drop(columns="w").iloc[:4].to_csv(tmp_path / "q.csv", index=False)
    return {name: str(tmp_path / name) for name in ("model.txt", "train.csv", "q.csv", "run")}


def arguments(files: dict[str, str], *more: str) -> list[str]:
    return ["attribute", files["model.txt"], "--train", files["train.csv"], "--queries", files["q.csv"], "--label", "pay",
            "--weight", "w", *more]  # fmt: skip


def test_a_model_file_and_tables(files: dict[str, str]) -> None:
    lines = json_lines(run(*arguments(files, "--method", "boostin", "--json", "--out", files["run"])))
    assert any("job=" in str(line) and "-> " in str(line) for line in lines)
    assert (Path(files["run"]) / "report.html").exists()


def test_values_of_rows(files: dict[str, str]) -> None:
    done = run("value", files["model.txt"], "--train", files["train.csv"], "--on", files["q.csv"], "--label", "pay",
               "--weight", "w", "--method", "leaf-influence")  # fmt: skip
    assert "train:" in done.stdout


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--method", "gradcos"], "Name a method for trees with --method: boostin"),
        (["--method", "boostin", "--check", "3"], "--check takes gradient steps"),
        (["--method", "boostin", "--max-length", "3"], "MODEL is a tree ensemble"),
        (["--method", "boostin", "--weight", "age"], "weights must be"),
        (["--method", "boostin", "--weight", "nothing"], "no column 'nothing'"),
        (["--method", "tree-loo"], "Give the estimator"),
        (["--method", "boostin", "--label", "job"], "3 labels, 'clerk' and so on; the model has 2"),
    ],
)
def test_what_cannot_be_is_said(files: dict[str, str], change: list[str], words: str) -> None:
    assert words in refused(*arguments(files, *change))
