"""`assay attribute`: the scores of the library, readable, as JSON lines, and saved."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.cli.helpers import json_lines, refused, run, write

import assay


def test_the_table_shows_both_sides_with_losses(model: Path, train: Path, queries: Path) -> None:
    shown = run("attribute", model, "--train", train, "--queries", queries, "--top", 2).stdout
    scores = assay.attribute(assay.load(model), train, queries)
    assert f"Query queries:1  loss {scores.queries.columns['loss'][0]:.3f} nats" in shown
    best = int(np.argmax(scores.array[:, 0]))
    first = shown.split("harmful")[0].splitlines()[-1]  # two helpful rows, of which this is the second
    assert shown.splitlines()[3].split()[:2] == ["1", f"{scores.array[best, 0]:+.4g}"]
    assert "book" in first
    assert "100% of the parameters; higher = more helpful; unit: arbitrary" in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 80


def test_json_is_all_there_is_on_standard_output(model: Path, train: Path, queries: Path, tmp_path: Path) -> None:
    done = run(
        "attribute", model, "--train", train, "--queries", queries, "--method", "graddot", "--top", 3, "--json",
        "--out", tmp_path / "run", "--check", 2,
    )  # fmt: skip
    *lines, last = json_lines(done)
    assert list(lines[0]) == ["query_id", "rank", "train_id", "score", "side", "source", "text"]
    top = assay.attribute(assay.load(model), train, queries, "graddot").top(3)
    assert [(line["query_id"], line["rank"], line["train_id"]) for line in lines] == list(
        top[["query_id", "rank", "train_id"]].itertuples(index=False, name=None)
    )
    assert [line["score"] for line in lines] == pytest.approx(list(top["score"]))
    assert last["run"]["method"] == "graddot"
    assert last["run"]["out"] == str(tmp_path / "run")
    assert [row["n"] for row in last["run"]["evidence"]["one_step"]["rows"]] == [2, 2, 2]


def test_a_run_is_saved_with_its_report(model: Path, train: Path, queries: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = run("attribute", model, "--train", train, "--queries", queries, "--out", out, "--check", 2)
    assert (out / "report.html").exists()
    assert f"assay report {out}" in done.stderr.replace("\n", " ")
    assert "one-step check" in done.stdout
    scores = assay.Scores.load(out)
    assert "one_step" in scores.evidence
    assert scores.array.shape == (6, 2)
    run("attribute", "--method", "bm25", "--train", train, "--queries", queries, "--out", out, "--no-report")
    assert assay.Scores.load(out).method == "bm25"  # an earlier run is replaced


@pytest.mark.parametrize("method", ["bm25", "tfidf", "random"])
@pytest.mark.parametrize("named", [(), ("none",)])
def test_methods_of_words_need_no_model(train: Path, queries: Path, method: str, named: tuple[str, ...]) -> None:
    shown = run("attribute", *named, "--method", method, "--train", train, "--queries", queries).stdout
    assert f"{method}: 6 training examples, 2 queries" in shown


def test_options_reach_the_library(model: Path, train: Path, queries: Path) -> None:
    done = run(
        "attribute", model, "--train", train, "--queries", queries, "--limit", 4, "--limit-queries", 1, "--json",
        "--modules", "*.mlp.*", "--dtype", "float64", "--max-length", 6, "--compression", "factored:2", "--train-loss",
        "mean",
    )  # fmt: skip
    made = json_lines(done)[-1]["run"]
    read = assay.read(train, limit=4), assay.read(queries, limit=1)
    loaded = assay.load(model, modules="*.mlp.*", dtype=torch.float64, max_length=6)
    expected = assay.attribute(loaded, *read, assay.methods.GradCos(compression="factored:2", train_loss="mean"))
    assert made["train_fingerprint"] == expected.provenance.train_fingerprint
    assert made["model_fingerprint"] == expected.provenance.model_fingerprint
    assert made["parameters"] == expected.provenance.parameters
    assert made["notes"] == list(expected.provenance.notes) != []  # examples were cut


def test_columns_can_be_named(tmp_path: Path) -> None:
    for name in ("train", "queries"):
        (tmp_path / f"{name}.csv").write_text("key,story,where\nk1,the cat,here\nk2,the dog,there\n", "utf-8")
    done = run(
        "attribute", "--method", "bm25", "--train", tmp_path / "train.csv", "--queries", tmp_path / "queries.csv",
        "--id-field", "key", "--text-field", "story", "--source-field", "where", "--json",
    )  # fmt: skip
    first = json_lines(done)[0]
    assert (first["query_id"], first["train_id"], first["source"], first["text"]) == ("k1", "k1", "here", "the cat")


def test_tokens_are_taken_apart_saved_and_shown(model: Path, train: Path, queries: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = run("attribute", model, "--train", train, "--queries", queries, "--tokens", 1, "--out", out, "--json")
    scores = assay.Scores.load(out)
    assert scores.parts is not None
    assert len(scores.parts.pairs) == len(scores.pairs(1))
    told = [line["parts"] for line in json_lines(done) if "parts" in line]
    assert len(told) == len(scores.parts)
    assert "Token by token" in (out / "report.html").read_text("utf-8")
    shown = run("attribute", model, "--train", train, "--queries", queries, "--tokens", 1).stdout
    assert "by token" in shown
    refused(
        "attribute", "--method", "bm25", "--train", train, "--queries", queries, "--tokens", 1, names=["compression"]
    )


def test_a_measurement_is_chosen(model: Path, train: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "the dog", "completion": " sat", "other": " ran"}]
    queries = write(tmp_path / "queries.jsonl", rows)
    words = ("attribute", model, "--train", train, "--queries", queries)
    done = run(*words, "--measure", "contrast", "--contrast-field", "other", "--json")
    *_, last = json_lines(done)
    assert last["run"]["parameters"]["measure"] == "contrast"
    assert "log p(completion) - log p(contrast)" in last["run"]["unit"]
    refused(*words, "--measure", "contrast", names=["queries:1", "contrast"])
    refused(*words, "--measure", "log-odds:cat dog", names=["not one token"])
    refused(*words, "--measure", "los", names=["Did you mean 'loss'"])
