"""The settings of the comparison: what is trained on what, and which queries are asked.

Each setting exists twice, on disjoint data: `exam`, on which figures are reported, and `tune`, on which
hyper-parameters are chosen. All runs are deterministic, so the noise ceiling of each setting is 1.

    logistic     softmax regression, 5,000 MNIST images, momentum SGD with weight decay
    mlp          784-128-64-10 (109,386 parameters), 5,000 MNIST images, plain SGD
    cnn          two convolutions and two linear layers (21,114 parameters) with tanh, 5,000 MNIST images, momentum SGD, its rate
                 going down to 0: made metasmooth, as MAGIC does (2503.13751, section 4), by trials on the tuning split
    cnn-relu     the same with ReLU and plain SGD at a rate of 0.1, which is not smooth in the examples' weights
    transformer  two-layer character Llama (0.4 M parameters), trained on TinyStories, then fine-tuned on 600 pieces of
                 Shakespeare by AdamW
    transformer-smooth  the same on 300 pieces, with AdamW's epsilon no longer negligible: a token that is hardly ever seen no
                 longer moves as far as any other by whatever gradient it has
"""

import gzip
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import assay
from assay.examples import Examples
from benchmarks.fidelity.models import MODULES

QUERIES = 100
ROWS, TABLE_ROWS = 5000, 1000
PIECE, PIECES, PRETRAINING = 128, 600, 4000
"""Characters of a text, texts fine-tuned on, texts of the earlier training."""


@dataclass(frozen=True)
class Setting:
    """What is trained on what, and which queries are asked."""

    name: str
    recipe: Any
    train: Examples
    queries: Examples


def images(folder: Path, kind: str, part: slice) -> tuple[Tensor, Tensor]:
    """MNIST images as rows of numbers in [0, 1], and their labels."""
    pixels = np.frombuffer(gzip.decompress((folder / f"{kind}-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((folder / f"{kind}-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    x, y = pixels.reshape(-1, 784)[part] / np.float32(255), labels[part].astype(np.int64)
    return torch.from_numpy(x), torch.from_numpy(y)


RECIPES: dict[str, dict[str, Any]] = {
    "logistic": {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2, "epochs": 20, "schedule": "linear"},
    "mlp": {"lr": 0.1, "epochs": 10},
    "cnn": {"lr": 0.03, "momentum": 0.9, "epochs": 10, "schedule": "linear"},
    "cnn-relu": {"lr": 0.1, "epochs": 10},
}


def on_images(name: str, data: Path, split: str) -> Setting:
    """A setting on MNIST; the tuning split has other training images and other queries."""
    first = {"exam": 0, "tune": 1}[split]
    folder = data / "data" / "mnist"
    train = images(folder, "train", slice(first * ROWS, (first + 1) * ROWS))
    queries = images(folder, "t10k", slice(first * QUERIES, (first + 1) * QUERIES))
    task = assay.tasks.Classify()
    recipe = assay.Recipe(MODULES[name], task, optimizer="sgd", batch_size=64, seed=first, **RECIPES[name])
    return Setting(name, recipe, assay.read(train), assay.read(queries))


# -- the transformer -----------------------------------------------------------------------------------------------------


def characters(text: str) -> Any:
    """A tokenizer with a token for each character."""
    import transformers
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    known = {c: k for k, c in enumerate(["<unk>", *sorted(set(text))])}
    plain = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Split(Regex("(?m:.)"), "isolated")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>", pad_token="<unk>")


def llama(vocabulary: int) -> nn.Module:
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=128, intermediate_size=352, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=PIECE, tie_word_embeddings=False, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def pieces(text: str, start: int, count: int) -> list[dict[str, str]]:
    """So many texts of equal length from a position on."""
    return [{"text": text[start + k * PIECE : start + (k + 1) * PIECE]} for k in range(count)]


@cache
def pretrained(data: Path) -> tuple[nn.Module, Any, str]:
    """The model after TinyStories, its task, and the plays."""
    plays = (data / "data" / "tinyshakespeare" / "input.txt").read_text()
    stories = (data / "data" / "tinystories" / "tinystories_sample.txt").read_text()
    tokenizer = characters(plays + stories)
    task = assay.tasks.CausalLM(tokenizer, PIECE)
    recipe = assay.Recipe(
        lambda: llama(len(tokenizer)), task, optimizer="adamw", lr=2e-3, epochs=2, batch_size=32, warmup=0.05,
        schedule="cosine", reduction="mean",
    )  # fmt: skip
    kept = (
        Path(tempfile.gettempdir()) / f"assay-fidelity-{PRETRAINING}"
    )  # a killed or repeated benchmark finds it there
    return recipe.train(pieces(stories, 0, PRETRAINING), out=kept, label="pretraining").model.module, task, plays


TUNED: dict[str, dict[str, Any]] = {"transformer": {}, "transformer-smooth": {"eps": 1e-4}}
TEXTS = {"transformer": PIECES, "transformer-smooth": 300}


def on_text(name: str, data: Path, split: str) -> Setting:
    """Fine-tuning on one part of the plays; queries come from behind it."""
    module, task, plays = pretrained(data)
    start = {"exam": 0, "tune": len(plays) // 2}[split]
    recipe = assay.Recipe(
        module, task, optimizer="adamw", lr=1e-3, epochs=4, batch_size=16, schedule="linear", warmup=0.05,
        weight_decay=0.01, reduction="mean", **TUNED[name],
    )  # fmt: skip
    train = assay.read(pieces(plays, start, TEXTS[name]))
    return Setting(name, recipe, train, assay.read(pieces(plays, start + PIECES * PIECE, QUERIES)))


# -- trees ---------------------------------------------------------------------------------------------------------------


def on_table(data: Path, split: str) -> Setting:
    """Rows of adult, in an order drawn once; the splits share none."""
    import lightgbm

    from benchmarks.trees import table

    X, y = table(data / "data" / "tabular", "adult")
    order = np.random.default_rng(0).permutation(len(y))
    first = {"exam": 0, "tune": 1}[split]
    train, queries = (
        order[start + first * count : start + (first + 1) * count]
        for start, count in ((0, TABLE_ROWS), (2 * TABLE_ROWS, QUERIES))
    )
    recipe = assay.EstimatorRecipe(lightgbm.LGBMClassifier(n_estimators=100, verbose=-1, n_jobs=1, deterministic=True))
    return Setting("trees", recipe, assay.read((X[train], y[train])), assay.read((X[queries], y[queries])))


NAMES = (*RECIPES, *TUNED, "trees")


def setting(name: str, data: Path, split: str = "exam") -> Setting:
    """A setting by name."""
    if name == "trees":
        return on_table(data, split)
    return on_text(name, data, split) if name in TUNED else on_images(name, data, split)
