"""Training dynamics: pruning against random, and finding wrong labels, on SST-2 (and MNIST), for every score.

    python -m benchmarks.dynamics [--data DIR] [--work DIR] [--seeds 0,1,2,3,4] [--images 3000]

Text: the 6,920 sentences of SST-2's training file; a bag of embeddings (4,000 words x 32, a hidden layer of 32), AdamW, 5 epochs; accuracy
on the 1,821 test sentences. Nothing was tuned. A seed trains once with the recorder (batches; gradient norms after each epoch; input
gradients at 10 looks), takes each score from that one record, and trains again on what each selector keeps. `pvi` trains its folds.

    hard, softmax, linear     the easy end is dropped         hardest     the hard end is dropped, by a hard cut
    random                    the same number of rows at random: the line to beat

Mislabelled: the same with a share of labels flipped, area under the curve of each score against which are wrong; beside it the share of the
ten nearest sentences (BM25, and the trained model's own hidden layer) that have the same label, and random. Each seed is kept in
`--work` as soon as it is done; `benchmarks/results/dynamics.json` is written of all that lie there. Seconds are those of the processor.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import assay
from assay.act.select import find_selector, select
from benchmarks.common import add_data, data_folder, parser, save
from benchmarks.fidelity.settings import images

WORDS, WIDTH, LONGEST, NEAR = 4000, 32, 40, 10
KEPT = (0.85, 0.70, 0.55, 0.40)
FLIPS = (0.1, 0.2)
PUBLISHED = {"full": 85.52, "vog, 55% kept": 85.04, "vog, standard deviation": 0.20}
"""SNLI, BERT-small: Anand et al. 2023 (EMNLP)."""


class Bag(nn.Module):
    """Mean of word embeddings, one hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH, padding_idx=0)
        self.hidden, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2)

    def pooled(self, x: Tensor) -> Tensor:
        real = (x != 0).sum(1, keepdim=True).clamp(min=1)
        return torch.relu(self.hidden(self.embed(x).sum(1) / real))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pooled(x))


class Digits(nn.Sequential):
    """An MLP."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))


def sentences(path: Path) -> tuple[list[str], np.ndarray]:
    lines = [line.split("\t", 1) for line in path.read_text("utf-8").splitlines() if "\t" in line]
    return [text for _, text in lines], np.array([int(label) for label, _ in lines])


def numbers(texts: list[str], known: dict[str, int]) -> Tensor:
    rows = torch.zeros(len(texts), LONGEST, dtype=torch.long)
    for row, text in enumerate(texts):
        ids = [known.get(word, 1) for word in text.split()][:LONGEST]
        rows[row, : len(ids)] = torch.tensor(ids)
    return rows


def recipe(seed: int, make: Any = Bag) -> assay.Recipe:
    return assay.Recipe(make, assay.tasks.Classify(), optimizer="adamw", lr=3e-3, epochs=5, batch_size=128, seed=seed)


def recorded(how: assay.Recipe, train: assay.Examples) -> tuple[assay.Record, assay.Run, float]:
    """One training with everything recorded, and its seconds."""
    start, data = time.process_time(), how.encode(train)
    per_epoch = how.order(len(data)).per_epoch
    recorder = assay.Recorder(train, gradients=[per_epoch * (k + 1) for k in range(how.epochs)], inputs=10)
    run = how.train(data, recorder=recorder)
    return recorder.record, run, time.process_time() - start


def scores(how: assay.Recipe, train: assay.Examples, record: assay.Record) -> dict[str, assay.Values]:
    """Every score of one seed."""
    m = assay.methods
    chosen = {
        "vog": m.VoG(), "el2n": m.EL2N(), "grand": m.GraNd(), "forgetting": m.Forgetting(), "aum": m.AUM(),
        "self-influence": m.SelfInfluence(), "loss-variability": m.LossVariability(),
        "confidence-variability": m.ConfidenceVariability(), "confidence": m.ConfidenceVariability(statistic="confidence"),
    }  # fmt: skip
    found = {name: assay.value(record, train, method=method) for name, method in chosen.items()}
    return found | {"pvi": assay.value(how, train, method=m.PVI(runs=1))}


def flipped(y: np.ndarray, share: float, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    wrong = rng.permutation(len(y)) < round(share * len(y))
    return np.where(wrong, (y + rng.integers(1, classes, len(y))) % classes, y), wrong


def auc(value: np.ndarray, wrong: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(wrong, -value))


def same_label(near: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return (labels[near] == labels[:, None]).mean(1)


def nearest(features: np.ndarray) -> np.ndarray:
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-9)
    products = unit @ unit.T
    np.fill_diagonal(products, -np.inf)
    return np.argpartition(-products, NEAR, axis=1)[:, :NEAR]


def nearest_words(texts: list[str]) -> np.ndarray:
    rows = assay.read([{"text": text} for text in texts])
    found = []
    for start in range(0, len(texts), 500):
        part = assay.attribute(None, rows, rows[start : start + 500], "bm25").array
        part[np.arange(start, start + part.shape[1]), np.arange(part.shape[1])] = -np.inf
        found.append(np.argpartition(-part, NEAR, axis=0)[:NEAR].T)
    return np.concatenate(found)


def prune(
    how: assay.Recipe, train: assay.Examples, values: dict[str, assay.Values], accuracy: Any
) -> dict[str, dict[str, list[float]]]:
    """Accuracy on what each selector keeps, for each score; `random` likewise."""
    data, found = how.encode(train), {}

    def trained(rows: np.ndarray) -> float:
        return accuracy(how.train(data.select(np.sort(rows))).model.module)

    rng = np.random.default_rng(how.seed)
    found["random"] = {"random": [trained(rng.permutation(len(train))[: round(k * len(train))]) for k in KEPT]}
    found["full"] = {"full": [trained(np.arange(len(train)))]}
    arms = {
        "hard": find_selector("hard", drop="highest"), "softmax": find_selector("softmax", drop="highest", seed=how.seed),
        "linear": find_selector("linear", drop="highest", seed=how.seed), "hardest": find_selector("hard", drop="lowest"),
    }  # fmt: skip
    for name, value in values.items():
        found[name] = {arm: [] for arm in arms}
        for arm, selector in arms.items():
            for share in KEPT:
                frame = select(value, selector, share)
                found[name][arm].append(trained(frame["row"][frame["kept"]].to_numpy()))
    return found


def text(folder: Path) -> Callable[[int], dict[str, Any]]:
    """What is done for a seed."""
    where = folder / "data" / "sst2"
    (texts, y), (test, y_test) = sentences(where / "train.tsv"), sentences(where / "test.tsv")
    common = [word for word, _ in Counter(word for line in texts for word in line.split()).most_common(WORDS - 2)]
    known = {word: k + 2 for k, word in enumerate(common)}
    x, x_test = numbers(texts, known), numbers(test, known)
    near_words = nearest_words(texts)

    def accuracy(module: nn.Module) -> float:
        with torch.no_grad():
            return float((module(x_test).argmax(1).numpy() == y_test).mean())

    def one(seed: int) -> dict[str, Any]:
        how, clean = recipe(seed), assay.read((x, torch.tensor(y)))
        start = time.process_time()
        how.train(clean)
        plain = time.process_time() - start
        record, _, seconds = recorded(how, clean)
        pruning = prune(how, clean, scores(how, clean, record), accuracy)
        found: dict[str, list[float]] = {}
        for share in FLIPS:
            labels, wrong = flipped(y, share, 2, seed)
            train = assay.read((x, torch.tensor(labels)))
            record, run, _ = recorded(how, train)
            values = {name: value.array for name, value in scores(how, train, record).items()}
            with torch.no_grad():
                hidden = run.model.module.pooled(x).numpy()
            values |= {
                "bm25 neighbours": same_label(near_words, labels),
                "embedding neighbours": same_label(nearest(hidden), labels),
                "random": np.random.default_rng(seed).normal(size=len(y)),
            }
            for name, value in values.items():
                found.setdefault(name, []).append(auc(value, wrong))
        return {
            "rows": len(y),
            "pruning": pruning,
            "mislabelled": found,
            "seconds": {"recorded": seconds, "plain": plain},
        }

    return one


def digits(folder: Path, rows: int) -> Callable[[int], dict[str, Any]]:
    """What is done for a seed."""
    x, y = images(folder / "data" / "mnist", "train", slice(0, rows))
    near = nearest(x.numpy())

    def one(seed: int) -> dict[str, Any]:
        found: dict[str, list[float]] = {}
        for share in FLIPS:
            labels, wrong = flipped(y.numpy(), share, 10, seed)
            train, how = assay.read((x, torch.tensor(labels))), recipe(seed, Digits)
            record, _, _ = recorded(how, train)
            values = {name: value.array for name, value in scores(how, train, record).items()}
            values["pixel neighbours"] = same_label(near, labels)
            values["random"] = np.random.default_rng(seed).normal(size=rows)
            for name, value in values.items():
                found.setdefault(name, []).append(auc(value, wrong))
        return {"rows": rows, "mislabelled": found}

    return one


def main() -> None:
    arguments = parser(__doc__)
    add_data(arguments)
    arguments.add_argument("--seeds", default="0,1,2,3,4")
    arguments.add_argument("--images", type=int, default=3000, help="MNIST images; 0: text only")
    arguments.add_argument("--work", type=Path, default=Path("dynamics-work"), help="where finished seeds are kept")
    args = arguments.parse_args()
    folder, seeds = data_folder(args), [int(seed) for seed in args.seeds.split(",") if seed]
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    jobs = {"text": lambda: text(folder)} | ({"images": lambda: digits(folder, args.images)} if args.images else {})
    for name, make in jobs.items():
        missing = [seed for seed in seeds if not (args.work / f"{name}-{seed}.json").exists()]
        one = make() if missing else None
        for seed in missing:
            found = one(seed)  # type: ignore[misc]
            (args.work / f"{name}-{seed}.json").write_text(json.dumps(found))
            print(f"{name}: seed {seed} done", file=sys.stderr, flush=True)
    done = {name: [json.loads(path.read_text()) for path in sorted(args.work.glob(f"{name}-*.json"))] for name in jobs}
    present = ",".join(path.stem.removeprefix("text-") for path in sorted(args.work.glob("text-*.json")))
    command = f"python -m benchmarks.dynamics --data DIR --seeds {present} --images {args.images}"
    save("dynamics", command, {"kept": KEPT, "flips": FLIPS, "published": PUBLISHED, "runs": done})


if __name__ == "__main__":
    main()
