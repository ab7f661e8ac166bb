"""Which rows of a mixed pool would help with plays? Ask a language model, by putting each row in its prompt.

    python examples/icp.py --data DIR                                  stories15m, in this process; about two minutes
    python examples/icp.py --data DIR --model server:http://HOST:PORT/v1#MODEL

The pool is real text of four kinds; the tasks are halves of speeches whose other half is to be told. DIR holds
`data/tinystories`, `data/tinyshakespeare`, `data/gsm8k`, `data/mbpp` and `models/stories15m`.
"""

import argparse
import json
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
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", help="a directory, or server:URL#MODEL; stories15m by default")
    parser.add_argument("--rows", type=int, default=15)
    args = parser.parse_args()
    pool, tasks = pool_and_tasks(args.data / "data", args.rows, 8)
    named = args.model or str(args.data / "models" / "stories15m")
    model = assay.Server.parse(named) if named.startswith("server:") else assay.load(named)
    values = assay.value(model, pool, tasks, "icp")
    frame = values.to_frame().assign(source=list(values.sources))
    print(frame.groupby("source")[["value", "gain"]].mean().sort_values("gain", ascending=False).to_string())
    print(values.top(5)[["rank", "side", "value", "source", "text"]].to_string())
    print(*values.provenance.notes, sep="\n")


if __name__ == "__main__":
    main()
