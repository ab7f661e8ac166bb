"""`assay evaluate` and `assay recommend`: from what the run notes alone; evidence in the run and its report."""

import json
from pathlib import Path

import pytest
from tests.cli.helpers import LINES, json_lines, refused, run, write

import assay
from assay.evaluate import Truth


@pytest.fixture(scope="module")
def runs(model: Path, train: Path, queries: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    common = ("--train", train, "--queries", queries, "--no-report")
    run("attribute", model, *common, "--method", "graddot", "--compression", "factored:1", "--out", folder / "a")
    run("attribute", "none", *common, "--method", "bm25", "--out", folder / "b")
    return [folder / "a", folder / "b"]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"optimizer": "sgd", "lr": 0.1, "epochs": 1, "batch_size": 3, "reduction": "mean"}))
    return path


def test_runs_are_judged_and_keep_the_evidence(runs: list[Path]) -> None:
    *lines, last = json_lines(run("evaluate", *runs, "--minutes", 1, "--k", 2, "--json"))
    methods = {line["method"]: line for line in lines if "verdict" in line and "run" in line}
    assert set(methods) == {"graddot", "bm25"}
    assert methods["graddot"]["run"] == str(runs[0])
    answers = [line for line in lines if "query_id" in line and line["method"] == "graddot"]
    assert [line["query_id"] for line in answers] == ["queries:1", "queries:2"]
    assert {line["verdict"] for line in answers} <= {"stable", "unstable"}
    assert last["evaluation"]["decided_by"] == "tail_patch"
    saved = assay.Scores.load(runs[0])
    assert {"trust", "one_step", "tail_patch", "reliability", "cardinality"} <= saved.evidence.keys()
    assert saved.evidence["trust"]["verdict"] == methods["graddot"]["verdict"]
    page = (runs[0] / "report.html").read_text("utf-8")
    assert "Which method to trust" in page
    assert 'title="reliability">' + answers[0]["verdict"] in page
    shown = run("evaluate", runs[1], "--minutes", 1, "--k", 1, "--model", saved.provenance.origin["model"]["model"])
    assert "bm25" in shown.stdout
    assert "verdict" in shown.stdout


def test_truth_and_its_scores(model: Path, train: Path, queries: Path, recipe: Path, runs: list[Path]) -> None:
    out = recipe.parent / "truth"
    words = (
        "evaluate", "truth", model, "--train", train, "--queries", queries, "--recipe", recipe, "--out", out,
        "--fraction", 0.67, "--processes", 1, "--seed", 3,
    )  # fmt: skip
    made = json_lines(run(*words, "--subsets", 8, "--json"))[-1]["truth"]
    assert (made["subsets"], made["seeds"], len(made["full"])) == (8, 1, 2)
    stored = Truth.open(out)
    assert stored.masks.sum(1).tolist() == [4] * 8
    files = {path: path.stat().st_mtime_ns for path in out.glob("*.safetensors")}
    assert "9 subsets" in " ".join(run(*words, "--subsets", 9).stdout.split())
    assert all(path.stat().st_mtime_ns == written for path, written in files.items())  # none was trained again
    *lines, last = json_lines(run("evaluate", "lds", runs[0], "--truth", out, "--json"))
    expected = assay.evaluate.lds(assay.Scores.load(runs[0]), Truth.open(out))
    assert lines[0]["lds"] == pytest.approx(expected.mean)
    assert last["lds"]["subsets"] == 9
    assert assay.Scores.load(runs[0]).evidence["lds"]["rows"][0]["mean"] == pytest.approx(expected.mean)
    assert "Spearman" in (runs[0] / "report.html").read_text("utf-8")
    assert "linear datamodeling score" in run("evaluate", "lds", runs[0], "--truth", out).stdout


def test_recommend(model: Path, train: Path, queries: Path) -> None:
    *lines, last = json_lines(
        run("recommend", model, "--train", train, "--queries", queries, "--minutes", 0.5, "--json")
    )
    assert last["recommendation"]["method"] in {line["method"] for line in lines}
    assert "tracin" in last["recommendation"]["left_out"]


def test_what_is_refused(model: Path, train: Path, queries: Path, recipe: Path, runs: list[Path]) -> None:
    folder = recipe.parent
    other = write(folder / "other.jsonl", [{"text": line} for line in reversed(LINES)])
    refused("evaluate", folder / "nothing", names=["nothing", "not a directory"])
    refused("evaluate", runs[0], "--train", other, names=["training examples in", "attribute again"])
    run("value", model, "--train", train, "--out", folder / "values")
    refused("evaluate", folder / "values", names=["holds values"])
    assay.attribute(None, train, queries, "bm25").save(folder / "python")
    refused("evaluate", folder / "python", names=["--train"])
    refused("evaluate", "lds", runs[0], "--truth", folder, names=["truth.json"])
    data = ("--train", train, "--queries", queries, "--out", folder / "t")
    for content, names in (
        ("{", ["recipe.json", "cannot be read"]),
        ("[1]", ["recipe.json", "list", "object"]),
        ('{"rate": 1}', ["'rate'", "recipe.json"]),
        ('{"lr": "fast"}', ["lr", "fast", "number"]),
        ('{"epochs": 1.5}', ["epochs", "whole number"]),
        ('{"betas": [0.9]}', ["betas", "two numbers"]),
        ('{"optimizer": "lion"}', ["lion"]),
        ('{"model": 3}', ["model", "directory"]),
    ):
        recipe.write_text(content)
        refused("evaluate", "truth", model, *data, "--recipe", recipe, names=names)
    refused("evaluate", "truth", model, *data, "--recipe", folder / "missing.json", names=["missing.json"])
    assert not (folder / "t").exists()


def test_another_model_is_refused(later: Path, runs: list[Path]) -> None:
    refused("evaluate", *runs, "--model", later, names=["not the one that the runs were made with"])
