"""What `assay.plan` predicts, against what methods really take: seconds and peak memory, each in a process of its own.

    python -m benchmarks.plan --data DIR [--split exam] [--methods graddot kfac ...] [--settings mlp cnn transformer]

On the settings of the fidelity benchmark with fewer rows, and shorter series for the methods that iterate. Constants were
fitted on `--split tune`, which has other data and fewer rows; `exam` is what is reported. Each process, forked from one that
has loaded libraries, data and model, predicts first, then runs, on one thread. Seconds are the processor's, also where the
machine's speed is measured, so that other work on a shared machine counts for less. Settings that are not asked for keep
the figures they had.
"""

import json
import multiprocessing
import resource
import sys
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from benchmarks.common import RESULTS, add_data, data_folder, parser, save

ROWS = {"exam": {"mlp": 1000, "cnn": 600, "transformer": 96}, "tune": {"mlp": 500, "cnn": 300, "transformer": 64}}
QUERIES = {"exam": 5, "tune": 4}
OPTIONS: dict[str, dict[str, Any]] = {
    "lissa": {"depth": 20},
    "ekfac-cg": {"iterations": 5, "tolerance": 1e-9},
    "path-krylov": {"krylov": 3},
    "replay-index": {"rank": 4, "sample": 16},
    "trak": {"compression": "sjlt:512"},
    "less": {"compression": "sjlt:1024"},
    "logra": {"compression": "eigen:16"},
    "trackstar": {"compression": "factored:16"},
}
BY_RECIPE = ("replay", "replay-index", "source", "path-krylov", "less")
NAMES = (
    "graddot", "gradcos", "tracin", "self-influence", "trak", "logra", "trackstar", "less", "diagonal", "kfac", "ekfac",
    "ekfac-cg", "lissa", "datainf", "source", "path-krylov", "replay", "replay-index", "embedding", "random",
)  # fmt: skip


def prepared(setting: str, split: str, data: Any) -> SimpleNamespace:
    """What all methods of a setting share, in the process that they are forked from."""
    import torch

    import assay
    from assay.runtime import machine, workload
    from benchmarks.fidelity import settings

    torch.set_num_threads(1)
    for module in (machine, workload):
        module.time = SimpleNamespace(perf_counter=time.process_time)  # type: ignore[assignment]
    work = settings.setting(setting, data, split)
    train, queries = work.train.select(range(ROWS[split][setting])), work.queries.select(range(QUERIES[split]))
    recipe = replace(work.recipe, checkpoints=2)
    model = replace(recipe, epochs=1).train(train).model
    # what the first use of a library loads (automatic differentiation forward, batched) is not a method's
    for method in ("random", "graddot", assay.methods.LiSSA(depth=1)):
        assay.attribute(model, train[:4], queries[:2], method)
    return SimpleNamespace(train=train, queries=queries, recipe=recipe, model=model)


def measured(name: str, work: SimpleNamespace) -> dict[str, Any]:
    """In this process: the plan, then the run."""
    import assay

    recipe = work.recipe
    if name == "less" and not recipe.optimizer.startswith("adam"):
        recipe = replace(recipe, optimizer="adam", lr=1e-3)
    method = assay.methods.find(name, **OPTIONS.get(name, {}))
    given = recipe if name in BY_RECIPE else work.model
    planned = assay.plan(given, work.train, work.queries, method)
    start = time.process_time()
    if isinstance(method, assay.methods.ValueMethod):
        assay.value(given, work.train, method=method)
    else:
        assay.attribute(given, work.train, work.queries, method)
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "seconds": seconds,
        "peak": peak,
        "predicted": planned.seconds,
        "predicted_peak": planned.peak_memory,
        "steps": {step.name: step.seconds for step in planned.steps},
    }


def apart(name: str, work: SimpleNamespace) -> dict[str, Any]:
    """`measured` in a process of its own."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(False)
    process = context.Process(target=lambda: send.send(measured(name, work)))
    process.start()
    send.close()
    row: dict[str, Any] = receive.recv()
    process.join()
    return row


def main() -> None:
    arguments = parser(__doc__)
    add_data(arguments)
    arguments.add_argument("--split", choices=list(ROWS), default="exam")
    arguments.add_argument("--methods", nargs="*", default=list(NAMES))
    arguments.add_argument("--settings", nargs="*", default=list(ROWS["exam"]))
    args = arguments.parse_args()
    data = data_folder(args)
    known = RESULTS / "plan.json"
    found: dict[str, dict[str, Any]] = json.loads(known.read_text())["settings"] if known.exists() else {}
    for setting in args.settings:
        work = prepared(setting, args.split, data)
        for name in args.methods:
            row = apart(name, work)
            found.setdefault(setting, {})[name] = row
            ratios = row["predicted"] / row["seconds"], row["predicted_peak"] / row["peak"]
            told = f"{row['seconds']:.2f} s, of which predicted {ratios[0]:.2f}; memory {ratios[1]:.2f}"
            print(f"{setting} {name}: {told}", {key: round(s, 2) for key, s in row["steps"].items()}, file=sys.stderr)
            if args.split == "exam":  # what is there stays, should a later one be killed
                rows = {"rows": ROWS["exam"], "queries": QUERIES["exam"]}
                save("plan", "python -m benchmarks.plan --data DIR", {**rows, "settings": found})


if __name__ == "__main__":
    main()
