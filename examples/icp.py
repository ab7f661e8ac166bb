"""Which rows of a mixed pool would help with plays? Ask a language model, by putting each row in its prompt.

    python examples/icp.py --data DIR                                  stories15m, in this process; half a minute
    python examples/icp.py --data DIR --model server:http://HOST:PORT/v1#MODEL

The pool is real text of four kinds; the tasks are halves of speeches whose other half is to be told. DIR holds
`data/tinystories`, `data/tinyshakespeare`, `data/gsm8k`, `data/mbpp` and `models/stories15m`.
"""

import argparse
import json
import os
from pathlib import Path

import assay


def pool_and_tasks(data: Path, rows: int, tasks: int) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Rows with their kind as the source, and speeches as prompt and completion."""
    plays = (data / "tinyshakespeare/input.txt").read_text("utf-8").split("\n\n")
    speeches = [speech for speech in plays if 150 < len(speech) < 300]
    stories = (data / "tinystories/tinystories_sample.txt").read_text("utf-8").split("<|endoftext|>")
    kinds = {
        "play": speeches[tasks : tasks + rows],
        "story": [story.strip()[:300] for story in stories[:rows]],
        "arithmetic": [json.loads(line)["question"] for line in (data / "gsm8k/train.jsonl").open()][:rows],
        "program": [json.loads(line)["code"][:300] for line in (data / "mbpp/mbpp.jsonl").open()][:rows],
    }
    pool = [{"text": text, "source": kind} for kind, texts in kinds.items() for text in texts]
    middles = [(speech, speech.find(" ", len(speech) // 2)) for speech in speeches[:tasks]]
    return pool, [{"prompt": speech[:k], "completion": speech[k:]} for speech, k in middles]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ASSAY_DATA"), help="default: $ASSAY_DATA")
    parser.add_argument("--model", help="a directory, or server:URL#MODEL; stories15m by default")
    parser.add_argument("--rows", type=int, default=15)
    args = parser.parse_args()
    if args.data is None or not (args.data / "models" / "stories15m").is_dir():
        parser.error("name the folder that holds models/stories15m and data/: --data DIR, or ASSAY_DATA=DIR")
    pool, tasks = pool_and_tasks(args.data / "data", args.rows, 8)
    named = args.model or str(args.data / "models" / "stories15m")
    model = assay.Server.parse(named) if named.startswith("server:") else assay.load(named)
    values = assay.value(model, pool, tasks, "icp")
    frame = values.to_frame().assign(source=list(values.sources))
    print(frame.groupby("source")[["value", "gain"]].mean().sort_values("gain", ascending=False).to_string())
    best = values.top(5)[["rank", "side", "value", "source", "text"]]
    print(best.assign(text=best["text"].map(lambda text: repr(text[:60]))).to_string(index=False))
    print(*values.provenance.notes, sep="\n")


if __name__ == "__main__":
    main()
