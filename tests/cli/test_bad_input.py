"""What is wrong with the user's input is said in one message, and nothing is written."""

import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tests.cli.helpers import refused, run, write
from tests.support import saved


@pytest.fixture(autouse=True)
def nothing_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No command may leave its --out, or anything else, behind."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "run").exists()


def attribute(model: object, train: object, queries: object, *words: object) -> tuple[object, ...]:
    return ("attribute", model, "--train", train, "--queries", queries, "--out", "run", *words)


@pytest.mark.parametrize(
    ("name", "content", "names"),
    [
        ("missing.jsonl", None, ["missing.jsonl"]),
        ("empty.jsonl", "", ["empty.jsonl"]),
        ("broken.jsonl", '{"text": "the cat"}\n{"text": "the do\n', ["broken.jsonl", "line 2", "the do"]),
        ("fields.jsonl", '{"story": "the cat"}\n', ["fields.jsonl", "story", "'text'"]),
        ("mixed.jsonl", '{"text": "the cat"}\n{"prompt": "the", "completion": "cat"}\n', ["mixed.jsonl", "line 2"]),
        ("twice.jsonl", '{"id": "a", "text": "the"}\n{"id": "a", "text": "cat"}\n', ["twice.jsonl", "'a'"]),
        ("blank.jsonl", '{"text": "the cat"}\n{"text": "  \\n"}\n', ["blank.jsonl", "line 2"]),
    ],
)
def test_data(model: Path, train: Path, tmp_path: Path, name: str, content: str | None, names: list[str]) -> None:
    if content is not None:
        (tmp_path / name).write_text(content, "utf-8")
    refused(*attribute(model, name, train), names=names)
    refused(*attribute(model, train, name), names=names)
    refused("index", model, "--train", name, "--out", "run", names=names)


def test_queries_without_anything_to_predict(model: Path, train: Path, tmp_path: Path) -> None:
    write(tmp_path / "one.jsonl", [{"prompt": "the cat", "completion": ""}])
    refused(*attribute(model, train, "one.jsonl"), names=["one.jsonl", "completion"])


def test_longer_than_the_context(model: Path, train: Path, tmp_path: Path) -> None:
    write(tmp_path / "long.jsonl", [{"text": "the cat " * 40}])
    refused(*attribute(model, "long.jsonl", train, "--long", "refuse"), names=["long:1", "81 tokens", "64"])
    shown = run("attribute", model, "--train", "long.jsonl", "--queries", train).stdout
    assert "1 example" in shown
    assert "cut" in shown


def test_labels_out_of_range(tmp_path: Path) -> None:
    import transformers
    from tests.support import config, tokenizer

    module = transformers.AutoModelForSequenceClassification.from_config(config("Bert", num_labels=3))
    module.save_pretrained(tmp_path / "classifier")
    tokenizer().save_pretrained(tmp_path / "classifier")
    write(tmp_path / "seven.jsonl", [{"text": "the cat", "label": 7}, {"text": "the dog", "label": 1}])
    refused(*attribute("classifier", "seven.jsonl", "seven.jsonl"), names=["seven:1", "7", "3 classes"])


def test_models(train: Path, model: Path, tmp_path: Path) -> None:
    refused(*attribute("./nowhere", train, train), names=["./nowhere"])
    shutil.copytree(model, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    refused(*attribute("bare", train, train), names=["bare", "no weights"])
    shutil.copytree(model, tmp_path / "other")
    weights = safetensors.torch.load_file(tmp_path / "other" / "model.safetensors")
    weights["model.embed_tokens.weight"] = torch.zeros(3, 3)
    safetensors.torch.save_file(weights, tmp_path / "other" / "model.safetensors", {"format": "pt"})
    refused(*attribute("other", train, train), names=["other", "do not fit"])


def test_a_loss_that_is_not_finite(train: Path, tmp_path: Path) -> None:
    folder = saved("Llama", tmp_path / "broken")
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights["model.norm.weight"].fill_(torch.nan)
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    refused(*attribute("broken", train, train), names=["train:", "NaN"])
    refused("index", "broken", "--train", train, "--out", "run", names=["train:", "NaN"])


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--method", "gradkos"], ["gradkos", "Did you mean 'gradcos'?"]),
        (["--method", "self-influence"], ["self-influence", "gradcos"]),
        (["--damping", "3"], ["'gradcos' has no --damping", "trak"]),
        (["--compression", "zip"], ["'zip'", "sjlt"]),
        (["--train-loss", "median"], ["median", "'sum', 'mean'"]),
        (["--seed", "x"], ["--seed", "'x'"]),
        (["--modules", "*.nothing.*"], ["*.nothing.*", "matches no trainable parameter"]),
        (["--checkpoint", "step-1"], ["step-1", "DIR=RATE"]),
        (["--checkpoint", "step-1=-3"], ["step-1=-3", "DIR=RATE"]),
        (["--checkpoint", "step-1=3e-4"], ["no checkpoint directory 'step-1'"]),
        (["--checkpoint", ".=3e-4"], ["'gradcos' takes the model as it is", "tracin"]),
        (["--method", "tracin"], ["tracin", "--checkpoint"]),
        (["--device", "abacus"], ["'abacus'"]),
        (["--top", "0"], ["--top"]),
        (["--check", "99"], ["99"]),
        (["--nonsense"], ["--nonsense"]),
        (["--label-field", "mood"], ["'mood'"]),
    ],
)
def test_options(model: Path, train: Path, words: list[str], names: list[str]) -> None:
    refused(*attribute(model, train, train, *words), names=names)


def test_what_a_command_lacks(model: Path, train: Path) -> None:
    refused("attribute", "--train", train, "--queries", train, names=["'gradcos' needs a model", "MODEL"])
    refused("attribute", "--train", train, "--queries", train, "--method", "bm25", "--check", 2, names=["--check"])
    refused("attribute", "-m", "bm25", "--train", train, "--queries", train, "--max-length", 3, names=["no MODEL"])
    refused("attribute", model, "--queries", train, names=["--train"])
    refused("index", "--train", train, "--out", "run", names=["'gradcos' needs a model"])
    refused("index", "--train", train, "--out", "run", "--append", "examples", names=["No model was given"])
    refused("value", model, "--train", train, "--method", "gradcos", names=["--on"])
    refused("value", "nothing.csv", "--label", "y", names=["--train", "'nothing.csv' is no file"])
    refused("plan", "--train", train, "--method", "bm25", names=["queries"])
    refused("report", "nowhere", names=["nowhere"])
    refused("query", "nowhere", "--text", "the cat", names=["nowhere"])


def test_a_run_is_not_written_over_something_else(train: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("mine")
    for out in ("file", "folder"):
        refused("attribute", "-m", "bm25", "--train", train, "--queries", train, "--out", out, names=[f"'{out}'"])
        refused("value", "-m", "bm25", "--train", train, "--on", train, "--out", out, names=[f"'{out}'"])
    assert [entry.name for entry in (tmp_path / "folder").iterdir()] == ["mine.txt"]
    refused("report", "folder", names=["folder"])
