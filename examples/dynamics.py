"""Which film reviews are easy, ambiguous or mislabelled? A map of SST-2 from one training run, the suspects, and a pruned training set.

    python examples/dynamics.py --data DIR [--rows 3000] [--out RUN] [--budget 85%]

DIR holds sst2/{train,test}.tsv. A tenth of the labels is flipped on purpose, so that what is found can be checked. A bag of embeddings is
trained once in a plain PyTorch loop with the recorder beside it; AUM and dataset cartography are read from the record, and the model is
trained again without the suspects, and without as many random rows. Takes about a minute on two cores.
"""

import argparse
import os
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import assay
from assay.act.select import Hard, select

WORDS, WIDTH, LONGEST, EPOCHS = 4000, 32, 40, 6


class Bag(nn.Module):
    """Mean of word embeddings, one hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH, padding_idx=0)
        self.layers = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.embed(x).sum(1) / (x != 0).sum(1, keepdim=True).clamp(min=1))


def sentences(path: Path) -> tuple[list[str], Tensor]:
    lines = [line.split("\t", 1) for line in path.read_text("utf-8").splitlines() if "\t" in line]
    return [text for _, text in lines], torch.tensor([int(label) for label, _ in lines])


def numbers(texts: list[str], known: dict[str, int]) -> Tensor:
    rows = torch.zeros(len(texts), LONGEST, dtype=torch.long)
    for row, text in enumerate(texts):
        ids = [known.get(word, 1) for word in text.split()][:LONGEST]
        rows[row, : len(ids)] = torch.tensor(ids)
    return rows


def train(x: Tensor, y: Tensor, recorder: assay.Recorder | None = None, seed: int = 0) -> nn.Module:
    """A training loop as anybody writes it; the recorder is one line of it."""
    torch.manual_seed(seed)
    module = Bag()
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(64):
            logits = module(x[rows])
            if recorder is not None:
                recorder.step(rows, logits, y[rows])
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits, y[rows]).backward()
            optimizer.step()
    return module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ASSAY_DATA"), help="default: $ASSAY_DATA")
    parser.add_argument("--rows", type=int, default=3000, help="training sentences")
    parser.add_argument("--budget", default="85%", help="share of the training set that stays")
    parser.add_argument("--out", type=Path, help="save the values as a run, for assay select, clean and report")
    args = parser.parse_args()
    if args.data is None:
        parser.error("name the folder that holds sst2/: --data DIR, or ASSAY_DATA=DIR")
    where = next((place for place in (args.data / "sst2", args.data / "data" / "sst2") if place.is_dir()), None)
    if where is None:
        parser.error(f"there is no sst2/ in {args.data}")
    (texts, labels), (test, y_test) = sentences(where / "train.tsv"), sentences(where / "test.tsv")
    some = np.random.default_rng(0).permutation(len(texts))[: args.rows]
    texts, labels = [texts[k] for k in some], labels[torch.tensor(some)]
    wrong = torch.rand(len(texts), generator=torch.Generator().manual_seed(0)) < 0.1
    y = torch.where(wrong, 1 - labels, labels)
    common = Counter(word for line in texts for word in line.split()).most_common(WORDS - 2)
    known = {word: k + 2 for k, (word, _) in enumerate(common)}
    x, x_test = numbers(texts, known), numbers(test, known)

    rows = assay.read([{"text": text, "label": int(label)} for text, label in zip(texts, y, strict=True)])
    recorder = assay.Recorder(rows)
    module = train(x, y, recorder)
    print(
        f"{len(texts)} sentences, {int(wrong.sum())} with a wrong label, {len(recorder.record.steps)} observations of each.\n"
    )

    map_ = assay.value(recorder.record, rows, method=assay.methods.ConfidenceVariability(statistic="confidence"))
    values = assay.value(recorder.record, rows, method="aum")
    found = assay.evaluate.mislabelled({"area under the margin": values, "confidence": map_}, wrong.numpy())
    for name, interval in found["auc"].rows.items():
        print(
            f"wrong labels by {name}: area under the curve {interval.mean:.3f} ({interval.low:.3f} to {interval.high:.3f})"
        )
    print("\nLowest by AUM (* flipped by us):")
    for row in np.argsort(values.array)[:10]:
        star = "*" if wrong[row] else " "
        confidence = map_.raw["confidence"][row]
        print(
            f"  {star} AUM {values.array[row]:+6.2f}  confidence {confidence:.2f}  label {int(y[row])}  {texts[row][:80]}"
        )

    frame = select(values, Hard(drop="lowest"), args.budget, rows)
    kept = torch.tensor(frame["row"][frame["kept"]].to_numpy().copy())
    random = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))[: len(kept)]
    print()
    for name, chosen in (("everything", None), ("without the lowest", kept), ("without random rows", random)):
        model = module if chosen is None else train(x[chosen], y[chosen])
        with torch.no_grad():
            accuracy = float((model(x_test).argmax(1) == y_test).float().mean())
        print(f"test accuracy, {name}: {accuracy:.3f}")
    if args.out is not None:
        values.save(args.out)
        print(f"\nSaved to {args.out}; assay report {args.out}")


if __name__ == "__main__":
    main()
