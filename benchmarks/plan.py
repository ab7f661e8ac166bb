"""What `assay.plan` predicts, against what methods really take: seconds and peak memory, each in a process of its own.

    python -m benchmarks.plan --data DIR [--split exam] [--methods graddot kfac ...] [--settings mlp cnn transformer]

On the settings of the fidelity benchmark with fewer rows. Constants were fitted on `--split tune`, which has other data
and half the rows; `exam` is what is reported. Each process predicts first, then runs, on one thread. Seconds are the processor's, also
where the machine's speed is measured, so that other work on a shared machine counts for less.
"""

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from benchmarks.common import add_data, data_folder, parser, save

ROWS = {"exam": {"transformer": 200, "mlp": 1000, "cnn": 1000}, "tune": {"transformer": 100, "mlp": 500, "cnn": 500}}
QUERIES = {"exam": 10, "tune": 8}
OPTIONS: dict[str, dict[str, Any]] = {
    "lissa": {"depth": 200},
    "trak": {"compression": "sjlt:512"},
    "less": {"compression": "sjlt:1024"},
    "logra": {"compression": "eigen:16"},
    "trackstar": {"compression": "factored:16"},
}
BY_RECIPE = ("replay", "source", "path-krylov", "less")
NAMES = (
    "graddot", "gradcos", "tracin", "self-influence", "trak", "logra", "trackstar", "less", "diagonal", "kfac", "ekfac",
    "ekfac-cg", "lissa", "datainf", "source", "path-krylov", "replay", "embedding", "random",
)  # fmt: skip


def measured(name: str, setting: str, split: str, data: Any) -> dict[str, Any]:
    """In this process: the plan, then the run."""
    import torch

    import assay
    from assay.runtime import machine, workload
    from benchmarks.fidelity import settings

    torch.set_num_threads(1)
    for module in (machine, workload):
        module.time = SimpleNamespace(perf_counter=time.process_time)  # type: ignore[assignment]
    work = settings.setting(setting, data, split)
    train = work.train.select(range(ROWS[split][setting]))
    queries = work.queries.select(range(QUERIES[split]))
    recipe = (
        replace(work.recipe, optimizer="adam", lr=1e-3) if name == "less" and setting != "transformer" else work.recipe
    )
    recipe = replace(recipe, checkpoints=2)
    method = assay.methods.find(name, **OPTIONS.get(name, {}))
    given: Any = recipe
    if name not in BY_RECIPE:
        few = replace(recipe, epochs=1)
        given = few.train(train).model
    if setting == "transformer":  # what the first use of a library loads is not the method's
        assay.attribute(given, train[:2], queries[:2], "random")
    planned = assay.plan(given, train, queries, method)
    start = time.process_time()
    if isinstance(method, assay.methods.ValueMethod):
        assay.value(given, train, method=method)
    else:
        assay.attribute(given, train, queries, method)
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "seconds": seconds,
        "peak": peak,
        "predicted": planned.seconds,
        "predicted_peak": planned.peak_memory,
        "steps": {step.name: step.seconds for step in planned.steps},
    }


def main() -> None:
    arguments = parser(__doc__)
    add_data(arguments)
    arguments.add_argument("--split", choices=list(ROWS), default="exam")
    arguments.add_argument("--methods", nargs="*", default=list(NAMES))
    arguments.add_argument("--settings", nargs="*", default=list(ROWS["exam"]))
    arguments.add_argument("--one", nargs=2, metavar=("METHOD", "SETTING"), help="measure one, print it")
    args = arguments.parse_args()
    data = data_folder(args)
    if args.one:
        name, setting = args.one
        print(json.dumps(measured(name, setting, args.split, data)))
        return
    found: dict[str, dict[str, Any]] = {}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for setting in args.settings:
        for name in args.methods:
            command = ["-m", "benchmarks.plan", "--data", str(data), "--split", args.split, "--one", name, setting]
            done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment)
            if done.returncode:
                print(f"{setting} {name}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr, flush=True)
                continue
            row = found.setdefault(setting, {})[name] = json.loads(done.stdout.strip().splitlines()[-1])
            ratios = row["predicted"] / row["seconds"], row["predicted_peak"] / row["peak"]
            told = f"{row['seconds']:.2f} s, of which predicted {ratios[0]:.2f}; memory {ratios[1]:.2f}"
            print(f"{setting} {name}: {told}", file=sys.stderr, flush=True)
        if args.split == "exam":  # what is there stays, should a later setting be killed
            keep(found)


def keep(found: dict[str, dict[str, Any]]) -> None:
    """Write the result file."""
    command = "python -m benchmarks.plan --data DIR"
    save("plan", command, {"rows": ROWS["exam"], "queries": QUERIES["exam"], "settings": found})


if __name__ == "__main__":
    main()
