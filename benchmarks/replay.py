"""What exact replay costs, in training runs.

    python -m benchmarks.replay --data DIR [--repeat 3] [--settings mlp transformer]

On settings of `benchmarks.fidelity`, two threads, every contender in a process of its own, in turn: one training run by the
recipe, replay of one query, of 50 queries carried together, and of their mean as one query (`assay.value`). Aims: one query at
most 6 training runs, 50 queries at most 1.2 training runs each.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

import assay
from benchmarks.common import add_data, contend, data_folder, medians, parser, save, timed
from benchmarks.fidelity.settings import setting

MANY = 50
CONTENDERS = ("training", "one query", f"{MANY} queries", f"mean of {MANY}")


def contender(name: str, what: str, data: Path) -> dict[str, Any]:
    """Run one of them."""
    torch.set_num_threads(2)
    work = setting(name, data)
    if what == "training":
        encoded = work.recipe.encode(work.train)
        return timed(lambda: work.recipe.train(encoded))
    if what.startswith("mean"):
        return timed(lambda: assay.value(work.recipe, work.train, on=work.queries[:MANY], method="replay"))
    count = 1 if what == "one query" else MANY
    return timed(lambda: assay.attribute(work.recipe, work.train, work.queries[:count], "replay"))


def main() -> None:
    arguments = parser(__doc__)
    add_data(arguments)
    arguments.add_argument("--repeat", type=int, default=3)
    arguments.add_argument("--settings", nargs="+", default=["mlp", "transformer"])
    arguments.add_argument("--contender", nargs=2, help=argparse.SUPPRESS)
    args = arguments.parse_args()
    data = data_folder(args)
    if args.contender:
        print(json.dumps(contender(*args.contender, data)))
        return
    found: dict[str, Any] = {}
    for name in args.settings:
        me = [sys.executable, "-m", "benchmarks.replay", "--data", str(data), "--contender", name]
        runs = contend({what: [*me, what] for what in CONTENDERS}, args.repeat)
        seconds = medians(runs)
        found[name] = {
            "median_seconds": seconds,
            "peak_bytes": medians(runs, "peak"),
            "one query in training runs": seconds["one query"] / seconds["training"],
            f"each of {MANY} in training runs": seconds[f"{MANY} queries"] / MANY / seconds["training"],
            "runs": runs,
        }
    save("replay", f"python -m benchmarks.replay --repeat {args.repeat}", {"settings": found})


if __name__ == "__main__":
    main()
