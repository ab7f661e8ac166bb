"""What exact replay costs, in training runs.

    python -m benchmarks.replay --data DIR [--repeat 3] [--settings mlp transformer]

On settings of `benchmarks.fidelity`, the first examples for one epoch, two threads, every contender in a process of its own, in
turn: one training run by the recipe, replay of one query, of 50 queries carried together, exactly and with the Gauss-Newton
matrix, and of their mean as one query (`assay.value`). Aims: one query at most 6 training runs, 50 queries at most 1.2 training
runs each.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import assay
from benchmarks.common import add_data, contend, data_folder, medians, parser, save, timed
from benchmarks.fidelity.settings import setting

MANY = 50
EXAMPLES = {"mlp": 5000, "cnn": 5000, "transformer": 128}
CONTENDERS = ("training", "one query", f"mean of {MANY}", f"{MANY} queries", f"{MANY} queries, gauss-newton")


def contender(name: str, what: str, data: Path) -> dict[str, Any]:
    """Run one of them."""
    torch.set_num_threads(2)
    work = setting(name, data)
    recipe, train = replace(work.recipe, epochs=1), work.train[: EXAMPLES[name]]
    if what == "training":
        encoded = recipe.encode(train)
        return timed(lambda: recipe.train(encoded))
    if what.startswith("mean"):
        return timed(lambda: assay.value(recipe, train, on=work.queries[:MANY], method="replay"))
    count, products = 1 if what == "one query" else MANY, "gauss-newton" if "gauss" in what else "exact"
    method = assay.methods.Replay(products=products)
    return timed(lambda: assay.attribute(recipe, train, work.queries[:count], method))


def main() -> None:
    arguments = parser(__doc__)
    add_data(arguments)
    arguments.add_argument("--repeat", type=int, default=3)
    arguments.add_argument("--settings", nargs="+", default=list(EXAMPLES))
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
            **{
                f"each of {what} in training runs": seconds[what] / MANY / seconds["training"]
                for what in CONTENDERS
                if what.startswith(f"{MANY} queries")
            },
            "runs": runs,
        }
    save("replay", f"python -m benchmarks.replay --repeat {args.repeat}", {"settings": found})


if __name__ == "__main__":
    main()
