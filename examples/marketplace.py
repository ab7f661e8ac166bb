"""A market for data in three folders: an owner of a model, three providers of data, and nothing but exported files between them.

    python examples/marketplace.py --data DIR [--work DIR] [--sample 240] [--offered 60] [--check]

DIR holds models/stories15m and data/{gsm8k,mbpp,hate_davidson,tinyshakespeare,tinystories}. The owner wants the model to read
mathematics. He measures a sample of mixed text with it and exports a scorer; each provider values data of his own with the scorer,
in a folder in which there is neither the model nor the sample; the owner gets their offers, and splits 1,000 among them. With
--check he then buys the data, and trains on every coalition of providers. Two minutes on two cores, five with --check.
"""

import argparse
import json
import os
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.linfik.data import DOMAINS, Row, short

WANTED = "math"
PROVIDERS = {
    "tutor": {"math": 0.7, "code": 0.3},
    "library": {"plays": 0.6, "stories": 0.4},
    "mixed": {"math": 0.25, "tweets": 0.5, "stories": 0.25},
}
"""Who offers what."""
RECIPE = {"optimizer": "adamw", "lr": 1e-4, "epochs": 1, "batch_size": 8, "reduction": "mean"}
LENGTH = 96


def texts(data: Path) -> dict[str, list[str]]:
    """Distinct texts of each domain in random order."""
    found = {name: list(dict.fromkeys(map(short, read(data / "data")))) for name, read in DOMAINS.items()}
    for rows in found.values():
        random.Random(0).shuffle(rows)
    return {name: [text for text in rows if len(text) > 30] for name, rows in found.items()}


def lay_out(work: Path, data: Path, sample: int, offered: int) -> None:
    """The folders as they are before anything has happened."""
    known = texts(data)

    def take(name: str, count: int) -> list[str]:
        taken, known[name] = known[name][:count], known[name][count:]
        return taken

    owner = work / "owner"
    write(owner / "targets.jsonl", [{"text": text} for text in take(WANTED, 24)])
    rows: list[Row] = [{"text": text, "source": name} for name in known for text in take(name, sample // len(known))]
    write(owner / "sample.jsonl", rows)
    for provider, shares in PROVIDERS.items():
        mine = [{"text": text} for name, share in shares.items() for text in take(name, round(share * offered))]
        write(work / provider / "data.jsonl", mine)


def write(path: Path, rows: list[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def assay(folder: Path, *words: str) -> None:
    """One command in one folder."""
    print(f"\n{folder.name}$ assay {shlex.join(words)}", flush=True)
    subprocess.run(
        [sys.executable, "-m", "assay", *words], cwd=folder, check=True, env={**os.environ, "COLUMNS": "110"}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ASSAY_DATA"), help="default: $ASSAY_DATA")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--sample", type=int, default=240)
    parser.add_argument("--offered", type=int, default=60)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    if given.data is None or not (given.data / "models" / "stories15m").is_dir():
        parser.error("name the folder that holds models/stories15m and data/: --data DIR, or ASSAY_DATA=DIR")
    work = given.work or Path(tempfile.mkdtemp(prefix="market-"))
    data, model = given.data.resolve(), str((given.data / "models" / "stories15m").resolve())
    lay_out(work, data, given.sample, given.offered)
    owner = work / "owner"
    length = ("--max-length", str(LENGTH))
    # The owner measures the sample with the model, and exports a scorer.
    assay(owner, "value", model, *length, "--train", "sample.jsonl", "--on", "targets.jsonl", "--method", "alinfik",
          "--step", "plain", "--sampled", "1", "--export", "scorer", "--top", "2")  # fmt: skip
    for provider in PROVIDERS:
        # What is sent to a provider: the scorer. What comes back: the offer.
        shutil.copytree(owner / "scorer", work / provider / "scorer")
        assay(work / provider, "value", "--scorer", "scorer", "--on", "data.jsonl", "--provider", provider, "--out", "offer",
              "--top", "2")  # fmt: skip
        shutil.copytree(work / provider / "offer", owner / "offers" / provider)
    offers = [f"offers/{provider}" for provider in PROVIDERS]
    assay(owner, "price", *offers, "--budget", "1000", "--scorer", "scorer")
    if given.check:
        files = []
        for provider in PROVIDERS:  # bought, and delivered
            shutil.copy(work / provider / "data.jsonl", owner / f"{provider}.jsonl")
            files += ["--data", f"{provider}.jsonl"]
        (owner / "recipe.json").write_text(json.dumps(RECIPE))
        assay(owner, "price", *offers, "--budget", "1000", "--scorer", "scorer", *files, "--check", "recipe.json", "--model", model,
              *length, "--on", "targets.jsonl", "--cache", "trainings")  # fmt: skip
    print(f"\nEverything lies in {work}.")


if __name__ == "__main__":
    main()
