"""`assay value data.csv --label y` by closed forms."""

from pathlib import Path

import numpy as np
import pytest
from tests.cli.helpers import refused, run

import assay


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    paths = tmp_path / "data.csv", tmp_path / "valid.csv"
    for path, count in zip(paths, (30, 12), strict=True):
        lines = [f"{a:.3f},{'red' if a + b > 0 else 'blue'},{int(a > 0)}" for a, b in rng.normal(size=(count, 2))]
        path.write_text("\n".join(["width,colour,y", *lines]) + "\n", "utf-8")
    return paths


@pytest.mark.parametrize("method", ["knn-shapley", "lava", "linear-influence"])
def test_values_of_a_table(method: str, tables: tuple[Path, Path], tmp_path: Path) -> None:
    data, valid = tables
    run("value", data, "--label", "y", "--on", valid, "--method", method, "--out", tmp_path / "run", "--no-report")
    model = "linear" if method == "linear-influence" else None
    expected = assay.value(model, assay.read(data, label="y"), assay.read(valid, label="y"), method)
    np.testing.assert_array_equal(assay.Values.load(tmp_path / "run").array, expected.array)


def test_values_without_a_goal(tables: tuple[Path, Path], tmp_path: Path) -> None:
    data, valid = tables
    run("value", data, "--label", "y", "--method", "knn-shapley", "--k", 3, "--out", tmp_path / "a", "--no-report")
    expected = assay.value(None, assay.read(data, label="y"), method=assay.methods.KNNShapley(k=3))
    np.testing.assert_array_equal(assay.Values.load(tmp_path / "a").array, expected.array)
    run("value", data, "--label", "y", "--method", "data-oob", "--bags", 20, "--out", tmp_path / "b", "--no-report")
    oob = assay.value("tree", assay.read(data, label="y"), method=assay.methods.DataOOB(bags=20))
    np.testing.assert_array_equal(assay.Values.load(tmp_path / "b").array, oob.array)
    refused("value", data, "--label", "y", "--on", valid, "--method", "data-oob", names=["--on"])
    refused("value", data, "--label", "y", "--method", "lava", names=["--on"])
