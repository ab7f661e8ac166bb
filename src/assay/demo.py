"""The demo: a small language model is trained on text that every Python carries, and asked whence sentences come.

The paragraphs of the language reference (`pydoc_data.topics`) are the training examples, their topic the source. A
small Llama is trained on them from scratch, an index is built, and paragraphs that were held out are the queries: do
the training examples that the method names share the query's topic, and does a gradient step on them lower its loss?
"""

import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.api import build
from assay.api import open as open_index
from assay.compress import Factored
from assay.errors import InputError
from assay.evaluate import agreement, one_step_check
from assay.examples import Examples, read
from assay.explore import report
from assay.methods.baseline.random import Random
from assay.methods.gradient.gradcos import GradCos
from assay.methods.lexical.bm25 import BM25
from assay.models import load
from assay.scores import Scores
from assay.tasks import CausalLM
from assay.training import Recipe

WEIGHTS = "model.safetensors"
"""A model's directory is complete when this file is there."""
SHORTEST = 80
"""Characters of the shortest paragraph that is used."""
CONTEXT = 128
VOCABULARY = 2048
EPOCHS = 8
TOP = 10


@dataclass(frozen=True)
class Demo:
    """What the demo made: files to look at, and the scores."""

    scores: Scores
    model: Path
    train: Path
    queries: Path
    index: Path
    run: Path
    report: Path


def run_demo(out: Path, queries: int = 24, seed: int = 0) -> Demo:
    """Train, index, ask and check, in the new directory `out`. A demo that was interrupted there goes on.

    Raises InputError if `out` holds something else.
    """
    _claim(out)
    rows, asked = split(paragraphs(), queries)
    train = _write(out / "train.jsonl", rows)
    held_out = _write(out / "queries.jsonl", asked)
    _train(out / "model", out / "training", train, seed)
    model = load(out / "model")
    build(
        model,
        train,
        out / "index",
        method=GradCos(compression=str(Factored())),
        origin={"model": str((out / "model").resolve())},
    )
    scores = open_index(out / "index", model).attribute(held_out)
    others = [method.fit(None, train).score(held_out) for method in (BM25(), Random(seed))]
    scores = scores.with_evidence(
        agreement=agreement(train, held_out, [scores, *others], TOP),
        one_step=one_step_check(model, train, scores, held_out, TOP),
    )
    scores.save(out / "run")
    page = report(scores, out / "report.html", top=TOP)
    return Demo(scores, out / "model", out / "train.jsonl", out / "queries.jsonl", out / "index", out / "run", page)


def paragraphs() -> list[dict[str, str]]:
    """Paragraphs of prose with their topic as `source`; one that stands in several topics belongs to the shortest."""
    from pydoc_data.topics import topics

    found: dict[str, str] = {}
    for topic in sorted(topics, key=lambda name: len(topics[name])):
        for part in re.split(r"\n\s*\n", topics[topic]):
            text = " ".join(part.split())
            if len(text) >= SHORTEST and text not in found:
                found[text] = topic
    return [{"text": text, "source": topic} for text, topic in found.items()]


def split(rows: Sequence[dict[str, str]], queries: int) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Hold out the middle paragraph of each of the largest topics as a query."""
    largest = [topic for topic, _ in Counter(row["source"] for row in rows).most_common(queries)]
    held_out = set[int]()
    for topic in largest:
        members = [k for k, row in enumerate(rows) if row["source"] == topic]
        held_out.add(members[len(members) // 2])
    return [row for k, row in enumerate(rows) if k not in held_out], [rows[k] for k in sorted(held_out)]


def _claim(out: Path) -> None:
    """The directory must be new, or a demo's."""
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / "train.jsonl").exists())):
        raise InputError(f"{out} is there and is not a demo's directory; give another one: assay demo --out DIR.")
    out.mkdir(parents=True, exist_ok=True)


def _write(path: Path, rows: Sequence[dict[str, str]]) -> Examples:
    """A JSON-lines file, as a user would have it, and the examples read back from it."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return read(path)


def _train(folder: Path, training: Path, train: Examples, seed: int) -> None:
    """A Llama of 0.9 million parameters and its tokenizer, saved as any model is; nothing if it is there."""
    if (folder / WEIGHTS).exists():
        return
    import transformers

    tokenizer = _tokenizer(train)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    recipe = Recipe(
        lambda: transformers.LlamaForCausalLM(config),
        CausalLM(tokenizer, CONTEXT),
        optimizer="adamw",
        lr=3e-3,
        epochs=EPOCHS,
        batch_size=16,
        seed=seed,
        schedule="cosine",
        warmup=0.05,
        clip=1.0,
        weight_decay=0.1,
        checkpoints=3,
        reduction="mean",
    )
    module: Any = recipe.train(train, out=training, label="training").model.module
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".model.", suffix=".tmp") as staging:
        tokenizer.save_pretrained(staging)
        module.save_pretrained(staging)
        folder.mkdir(exist_ok=True)
        for file in sorted(Path(staging).iterdir(), key=lambda file: file.name == WEIGHTS):  # the weights last
            os.replace(file, folder / file.name)


def _tokenizer(train: Examples) -> Any:
    """Byte-pair encoding learned from the training examples, with a token for the beginning of a text."""
    import tokenizers
    import transformers

    core = tokenizers.Tokenizer(tokenizers.models.BPE())
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>"],
        show_progress=False,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    core.train_from_iterator(list(train.texts), trainer)
    core.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", pad_token="<pad>", model_max_length=CONTEXT
    )
