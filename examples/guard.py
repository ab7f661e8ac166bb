"""Facts from real text in a prompt, each with a label: which of them did the answer need, and so who may read it?

    python examples/guard.py --data DIR            stories15m; about a minute

Six sentences of TinyStories become documents of a chain public < internal < secret; the question is the beginning of one
of them, and the answer its next words. DIR holds `data/tinystories` and `models/stories15m`.
"""

import argparse
import os
import re
from pathlib import Path

import assay


def sentences(data: Path, count: int) -> list[str]:
    """First sentences that are neither short nor long."""
    stories = (data / "tinystories/tinystories_sample.txt").read_text("utf-8").split("<|endoftext|>")
    firsts = [re.split(r"(?<=[.!?])\s", story.strip())[0] for story in stories]
    return [sentence for sentence in dict.fromkeys(firsts) if 60 < len(sentence) < 110][:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ASSAY_DATA"), help="default: $ASSAY_DATA")
    args = parser.parse_args()
    if args.data is None or not (args.data / "models" / "stories15m").is_dir():
        parser.error("name the folder that holds models/stories15m and data/: --data DIR, or ASSAY_DATA=DIR")
    texts = sentences(args.data / "data", 6)
    labels = ("public", "internal", "secret") * 2
    documents = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    questions = []
    for text in texts:
        middle = text.find(" ", 2 * len(text) // 3)
        questions.append({"prompt": text[:middle], "completion": text[middle:]})
    model = assay.load(args.data / "models" / "stories15m")
    found = assay.guard(model, documents, questions, lattice="public < internal < secret", tokens=12)
    for verdict, label, text in zip(found.verdicts, labels, texts, strict=True):
        made, lost = " ".join(verdict.output.split()), max(0.0, verdict.drop)
        print(f"{text}\n   its label {label}, of all {verdict.conservative}; found: {verdict.label}")
        print(
            f"   from {len(verdict.documents)} of {len(texts)} documents a token loses {lost:.2f} nats; made anew: {made}\n"
        )
    print(f"{found.improved:.0%} of the labels are below that of all documents.")


if __name__ == "__main__":
    main()
