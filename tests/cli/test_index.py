"""`assay index` and `assay query`: build, append, ask; what fails leaves nothing behind."""

from pathlib import Path

import pytest
from tests.cli.helpers import LINES, json_lines, refused, run, write

import assay


@pytest.fixture(scope="module")
def index(model: Path, train: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("index") / "index"
    shown = run("index", model, "--train", train, "--out", out).stdout
    assert "6 examples" in " ".join(shown.split())
    return out


def files(folder: Path) -> dict[str, bytes]:
    """Every file's content, by name."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_an_index_knows_its_model(index: Path, model: Path, queries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model.parent)
    lines = json_lines(run("query", index, "--queries", queries, "--json", "--top", 2))
    expected = assay.open(index).attribute(assay.read(queries)).top(2)
    assert [line["train_id"] for line in lines[:-1]] == list(expected["train_id"])
    assert lines[-1]["run"]["method"] == "gradcos"


def test_a_text_is_a_query(index: Path) -> None:
    lines = json_lines(run("query", index, "--text", LINES[2], "--text", LINES[3], "--json", "--top", 1))
    helpful = [line for line in lines[:-1] if line["side"] == "helpful"]
    assert [line["text"] for line in helpful] == [LINES[2], LINES[3]]
    assert helpful[0]["score"] == pytest.approx(1, abs=1e-5)


def test_another_method_can_be_asked(index: Path, queries: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run("query", index, "--queries", queries, "--method", "graddot", "--query-loss", "sum", "--out", out)
    scores = assay.Scores.load(out)
    assert scores.method == "graddot"
    assert scores.provenance.parameters["query_loss"] == "sum"
    assert (out / "report.html").exists()


def test_an_index_of_the_mean_loss_is_asked_for_it(model: Path, train: Path, queries: Path, tmp_path: Path) -> None:
    out = tmp_path / "index"
    run("index", model, "--train", train, "--out", out, "--train-loss", "mean", "--store", "int8", "--seed", 3)
    for words in ((), ("--query-loss", "sum")):
        made = json_lines(run("query", out, "--queries", queries, "--json", *words))[-1]["run"]
        assert made["parameters"]["train_loss"] == "mean"
        assert made["parameters"]["seed"] == 3


def test_loading_options_are_remembered(model: Path, train: Path, tmp_path: Path) -> None:
    out = tmp_path / "index"
    words = ("--modules", "*.mlp.*", "--dtype", "bfloat16", "--max-length", 5, "--compression", "factored:2")
    run("index", model, "--train", train, "--out", out, *words)
    made = json_lines(run("query", out, "--text", LINES[0], "--json"))[-1]["run"]
    assert made["coverage"] < 0.5
    assert made["parameters"]["compression"] == "factored:2"


def test_examples_are_appended(index: Path, model: Path, train: Path, tmp_path: Path) -> None:
    out, more = tmp_path / "index", write(tmp_path / "more.jsonl", [{"text": "the dog saw you", "source": "new"}])
    run("index", model, "--train", train, "--out", out)
    assert files(out) == files(index)
    shown = run("index", model, "--train", more, "--out", out, "--append", "examples").stdout
    assert "7 examples" in " ".join(shown.split())  # where a line breaks is the path's business
    found = json_lines(run("query", out, "--text", "the dog saw you", "--json", "--top", 1))[0]
    assert (found["train_id"], found["source"]) == ("more:1", "new")


def test_checkpoints_are_appended(model: Path, later: Path, train: Path, queries: Path, tmp_path: Path) -> None:
    whole, grown = tmp_path / "whole", tmp_path / "grown"
    first = ("index", model, "--train", train, "--method", "tracin", "--checkpoint", f"{model}=0.1")
    both = (*first, "--checkpoint", f"{later}=0.2")
    run(*both, "--out", whole)
    run(*first, "--out", grown)
    run(*both, "--out", grown, "--append", "checkpoints")
    asked = [json_lines(run("query", path, "--queries", queries, "--json"))[:-1] for path in (whole, grown)]
    assert asked[0] == asked[1]


def test_a_finished_build_is_done_again_in_no_time(index: Path, model: Path, train: Path) -> None:
    before = files(index)
    run("index", model, "--train", train, "--out", index)
    assert files(index) == before


def test_another_index_is_not_overwritten(index: Path, model: Path, later: Path, queries: Path) -> None:
    before = files(index)
    refused("index", model, "--train", queries, "--out", index, names=[index])
    refused("index", later, "--train", queries, "--out", index, names=[index])
    assert files(index) == before


def test_a_failed_build_leaves_nothing(model: Path, tmp_path: Path) -> None:
    bad = write(
        tmp_path / "bad.jsonl", [{"prompt": "the cat", "completion": " sat"}, {"prompt": "a", "completion": ""}]
    )
    refused("index", model, "--train", bad, "--out", tmp_path / "index", names=["bad.jsonl", "completion"])
    long = write(tmp_path / "long.jsonl", [{"text": "the cat"}, {"text": "the " * 80}])
    refused(
        "index", model, "--train", long, "--long", "refuse", "--out", tmp_path / "index", names=["long:2", "81 tokens"]
    )
    assert not (tmp_path / "index").exists()


def test_what_is_in_the_way_is_left_alone(model: Path, train: Path, tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "mine.txt").write_text("mine")
    refused("index", model, "--train", train, "--out", tmp_path / "index", names=["mine.txt"])
    assert files(tmp_path / "index") == {"mine.txt": b"mine"}


def test_a_damaged_shard_is_named(index: Path, queries: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(index, tmp_path / "index")
    shard = next((tmp_path / "index" / "shards").iterdir())
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(content)
    refused("query", tmp_path / "index", "--queries", queries, names=[shard.name])


def test_a_query_is_a_file_or_texts(index: Path, queries: Path) -> None:
    refused("query", index, names=["--queries", "--text"])
    refused("query", index, "--queries", queries, "--text", "the cat", names=["--queries", "--text"])
