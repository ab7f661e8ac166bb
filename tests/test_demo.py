"""The demo end to end on a few paragraphs, and that it goes on where it stopped."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import assay
from assay import demo
from assay.errors import InputError
from assay.training import Recipe


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    every = demo.paragraphs()
    sources = sorted({row["source"] for row in every}, key=lambda s: -sum(row["source"] == s for row in every))[:4]
    some = [row for name in sources for row in [r for r in every if r["source"] == name][:8]]
    monkeypatch.setattr(demo, "paragraphs", lambda: some)
    monkeypatch.setattr(demo, "EPOCHS", 1)
    monkeypatch.setattr(demo, "VOCABULARY", 300)
    monkeypatch.setattr(demo, "CONTEXT", 24)


def test_paragraphs_are_prose_with_their_topic_each_once() -> None:
    rows = demo.paragraphs()
    assert len(rows) > 500
    assert len({row["text"] for row in rows}) == len(rows)
    assert all(len(row["text"]) >= demo.SHORTEST and row["source"] for row in rows)
    kept, asked = demo.split(rows, 24)
    assert len(asked) == len({row["source"] for row in asked}) == 24
    assert len(kept) + len(asked) == len(rows)
    assert not {row["text"] for row in asked} & {row["text"] for row in kept}
    assert {row["source"] for row in asked} <= {row["source"] for row in kept}


@pytest.mark.usefixtures("_small")
def test_the_demo_end_to_end_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed three times: while training has ended and the model is being saved, before the index, before the report."""
    out = tmp_path / "demo"

    def interrupted(*given: object, **options: object) -> None:
        raise KeyboardInterrupt

    for step in ("os.replace", "build", "report"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(f"assay.demo.{step}", interrupted)
            demo.run_demo(out, queries=3)
        assert (out / "train.jsonl").exists()
    assert (out / "run" / "run.json").exists()
    assert not list(out.glob(".*"))  # nothing half-written is left
    trained = (out / "model" / demo.WEIGHTS).read_bytes()

    def trained_again(*given: object, **options: object) -> None:
        raise AssertionError("the model is there")

    monkeypatch.setattr(Recipe, "train", trained_again)
    made = demo.run_demo(out, queries=3)
    assert (out / "model" / demo.WEIGHTS).read_bytes() == trained
    assert made.report.read_text("utf-8").startswith("<!doctype html>") or "<html" in made.report.read_text("utf-8")
    assert made.scores.array.shape == (29, 3)
    evidence = made.scores.evidence
    assert [row["set"] for row in evidence["agreement"]["rows"]] == [
        "gradcos top 10",
        "bm25 top 10",
        "random top 10",
        "chance",
    ]
    assert len(evidence["one_step"]["rows"]) == 3
    assert assay.Scores.load(made.run).evidence == evidence
    opened = assay.open(made.index)  # from where the index says that the model is
    assert (opened.attribute(assay.read(made.queries)).array == made.scores.array).all()


@pytest.mark.usefixtures("_small")
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_another_directory_is_left_alone(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    if kind == "file":
        out.write_text("precious")
    else:
        out.mkdir()
        (out / "notes.txt").write_text("precious")
    with pytest.raises(InputError, match="is not a demo's directory; give another one"):
        demo.run_demo(out)
    assert [path.read_text() for path in tmp_path.rglob("*") if path.is_file()] == ["precious"]
