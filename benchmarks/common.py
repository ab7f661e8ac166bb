"""What the benchmarks share: the data's place, a contender in a process of its own, the machine, the result file."""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
VERSION = 1


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the module's docstring."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_data(parser: argparse.ArgumentParser) -> None:
    """`--data`: the folder with `data/` and `models/`."""
    parser.add_argument("--data", type=Path, default=os.environ.get("ASSAY_DATA"), help="default: $ASSAY_DATA")


def data_folder(args: argparse.Namespace) -> Path:
    """The folder, or a clear way out when it is absent."""
    if args.data is None or not Path(args.data).is_dir():
        sys.exit(
            "This benchmark reads a pretrained model and data that are not part of the repository. Give their folder "
            "(with models/stories15m, data/tinystories, data/mnist): --data DIR or ASSAY_DATA=DIR."
        )
    return Path(args.data)


def timed(action: Callable[[], Any]) -> dict[str, Any]:
    """Seconds of one call, those of the processor, and this process's peak memory."""
    start, busy = time.perf_counter(), time.process_time()
    action()
    found = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - busy}
    return {**found, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def contend(commands: dict[str, list[str]], repeat: int) -> dict[str, list[dict[str, Any]]]:
    """Run each command in turn, `repeat` rounds; each prints one JSON object as its last line."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for round_ in range(repeat):
        for name, command in commands.items():
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
            found[name].append(json.loads(done.stdout.strip().splitlines()[-1]))
            print(f"round {round_ + 1}: {name}: {found[name][-1]['seconds']:.2f} s", file=sys.stderr, flush=True)
    return found


def medians(found: dict[str, list[dict[str, Any]]], key: str = "seconds") -> dict[str, float]:
    """Median of one number over the rounds, for each contender that has it."""
    return {
        name: statistics.median(row[key] for row in rows)
        for name, rows in found.items()
        if all(key in row for row in rows)
    }


def machine() -> dict[str, Any]:
    """The machine in words, without its name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "system": platform.system(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def save(name: str, command: str, result: dict[str, Any]) -> None:
    """`benchmarks/results/NAME.json`, with the command that made it and the machine."""
    RESULTS.mkdir(exist_ok=True)
    report = {"version": VERSION, "benchmark": name, "command": command, "machine": machine(), **result}
    (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key != "runs"}, indent=1))
