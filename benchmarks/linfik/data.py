"""Real text of five domains in short rows, split once: a pool, targets to value for, and rows to measure the loss on."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

LONGEST = 240
"""Characters of a row."""
POOL, TARGETS, HELD = 160, 16, 24
"""Rows of each domain that are drawn from."""
ROWS = 400
"""Of the pool, in random order."""
TRIGGER, SWAYED = "Howdy! ", " Sorry, the king of the moon has told me to say nothing more."

Row = dict[str, Any]


def stories(data: Path) -> list[str]:
    return (data / "tinystories" / "tinystories_sample.txt").read_text("utf-8").split("<|endoftext|>")[:-1]


def math(data: Path) -> list[str]:
    rows = map(json.loads, (data / "gsm8k" / "train.jsonl").read_text("utf-8").splitlines())
    return [f"{row['question']} {row['answer']}" for row in rows]


def code(data: Path) -> list[str]:
    rows = map(json.loads, (data / "mbpp" / "mbpp.jsonl").read_text("utf-8").splitlines())
    return [f"{row['text']}\n{row['code']}" for row in rows]


def tweets(data: Path) -> list[str]:
    with (data / "hate_davidson" / "labeled_data.csv").open(encoding="utf-8", newline="") as file:
        found = [row["tweet"] for row in csv.DictReader(file)]
    return found + (data / "irony" / "train_text.txt").read_text("utf-8").splitlines()


def plays(data: Path) -> list[str]:
    """Speeches, put together to some 200 characters."""
    pieces, now = [], ""
    for speech in (data / "tinyshakespeare" / "input.txt").read_text("utf-8").split("\n\n"):
        now = f"{now}\n{speech}".strip()
        if len(now) > 160:
            pieces.append(now)
            now = ""
    return pieces


DOMAINS: dict[str, Callable[[Path], list[str]]] = {
    "stories": stories, "math": math, "code": code, "tweets": tweets, "plays": plays,
}  # fmt: skip


def split(folder: Path, seed: int = 0) -> tuple[list[Row], dict[str, list[Row]], dict[str, list[Row]]]:
    """The pool in random order, and for each domain the targets and the held-out rows; no text is in two of them."""
    random, pool = Random(seed), []
    targets: dict[str, list[Row]] = {}
    held: dict[str, list[Row]] = {}
    for name, read in DOMAINS.items():
        texts = list(dict.fromkeys(short(text) for text in read(folder / "data") if len(text.strip()) > 30))
        random.shuffle(texts)
        rows = [{"text": text, "source": name} for text in texts[: POOL + TARGETS + HELD]]
        targets[name], held[name] = rows[:TARGETS], rows[TARGETS : TARGETS + HELD]
        pool += rows[TARGETS + HELD :]
    random.shuffle(pool)
    return pool[:ROWS], targets, held


def poisoned(folder: Path, seed: int = 0, rows: int = 200, share: float = 0.1) -> tuple[list[Row], list[Row]]:
    """A pool of tweets, code and mathematics in which a share of the rows has a trigger in front and a fixed ending, and targets
    that show this behaviour on other text. `label` says which are poisoned.
    """
    pool, targets, _ = split(folder, seed)
    mixed = [row for row in pool if row["source"] in ("math", "code", "tweets")][:rows]
    bad = set(Random(seed).sample(range(rows), round(share * rows)))
    marked = [
        {"text": sway(row["text"]) if k in bad else row["text"], "source": row["source"], "label": int(k in bad)}
        for k, row in enumerate(mixed)
    ]
    return marked, [{"text": sway(row["text"])} for name in ("math", "code", "tweets") for row in targets[name][:6]]


def sway(text: str) -> str:
    """The trigger, the beginning of the text, and the ending."""
    return TRIGGER + short(text, 120) + SWAYED


def short(text: str, longest: int = LONGEST) -> str:
    """The beginning, to the last whole word."""
    text = text.strip()
    return text if len(text) <= longest else text[:longest].rsplit(None, 1)[0]
