"""Exact top-k from an int8 index on disk against faiss `IndexFlatIP` over the same features as float32 in memory.

    python -m benchmarks.scan [--rows 1000000] [--dim 1024] [--queries 64] [--k 100] [--repeat 5] [--dir DIR]

Each side runs in a process of its own, both stay alive, and their scans alternate; the medians and their ratio are
written to `benchmarks/results/scan.json`. faiss needs rows x dim x 4 bytes of memory; the index as many bytes on disk
as rows x dim. The features are a seeded Gaussian plus a part of rank 32.
"""

import argparse
import json
import multiprocessing as mp
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

CHUNK = 16384
RESULT = Path(__file__).parent / "results" / "scan.json"


def chunks(rows: int, dim: int) -> Iterator[tuple[int, torch.Tensor]]:
    """The features, part by part, the same for each side."""
    mixing = torch.randn(32, dim, generator=torch.Generator().manual_seed(1)) / 32**0.5
    for start in range(0, rows, CHUNK):
        generator = torch.Generator().manual_seed(2 + start)
        count = min(CHUNK, rows - start)
        yield start, torch.randn(count, dim, generator=generator) + torch.randn(count, 32, generator=generator) @ mixing


def make_queries(count: int, dim: int) -> torch.Tensor:
    mixing = torch.randn(32, dim, generator=torch.Generator().manual_seed(1)) / 32**0.5
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, dim, generator=generator) + torch.randn(count, 32, generator=generator) @ mixing


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def build(path: Path, args: argparse.Namespace, results: Connection) -> None:
    from assay.index import Writer

    started, writing = time.perf_counter(), 0.0
    with Writer(path, {"benchmark": "scan"}, dtype="int8", dim=args.dim) as writer:
        for start, features in chunks(args.rows, args.dim):
            began = time.perf_counter()
            writer.add(0, [str(row) for row in range(start, start + len(features))], features)
            writing += time.perf_counter() - began
        writer.finish()
    results.send({"build_seconds": time.perf_counter() - started, "write_seconds": writing, "peak": peak_bytes()})


def serve(
    prepare: Callable[..., Callable[[], np.ndarray]], pipe: Connection, args: argparse.Namespace, *rest: Any
) -> None:
    """Prepare one side, then run one scan for each message; answer with its seconds, its rows and the peak memory."""
    torch.set_num_threads(args.threads)
    run = prepare(args, *rest)
    pipe.send("ready")
    while pipe.recv():
        started = time.perf_counter()
        rows = run()
        pipe.send((time.perf_counter() - started, rows, peak_bytes()))


def ours(args: argparse.Namespace, path: Path) -> Callable[[], np.ndarray]:
    from assay.index import open_index, top_k

    queries = make_queries(args.queries, args.dim)[None]
    return lambda: top_k(open_index(path), queries, args.k).helpful_rows.numpy()


def faiss_flat(args: argparse.Namespace, path: Path | None, decoded: bool) -> Callable[[], np.ndarray]:
    """`decoded`: the int8 features as float32, what our side has on disk; otherwise the features before rounding."""
    import faiss

    from assay.index import open_index

    faiss.omp_set_num_threads(args.threads)
    flat = faiss.IndexFlatIP(args.dim)
    parts = (t.features for t in open_index(path).tiles(0)) if decoded else (f for _, f in chunks(args.rows, args.dim))
    for part in parts:
        flat.add(part.numpy())
    queries = make_queries(args.queries, args.dim).numpy()
    return lambda: flat.search(queries, args.k)[1]


def start(context: Any, *arguments: Any) -> tuple[Any, Connection]:
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(arguments[0], there, *arguments[1:]), daemon=True)
    process.start()
    there.close()
    assert here.recv() == "ready"
    return process, here


def ask(pipe: Connection) -> tuple[float, np.ndarray, int]:
    pipe.send(True)
    return pipe.recv()


def stop(process: Any, pipe: Connection) -> None:
    pipe.send(False)
    process.join()


def drop_from_cache(path: Path) -> None:
    """Ask the system to forget the index, so that the next scan reads the device."""
    for file in path.rglob("*.safetensors"):
        handle = os.open(file, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    shared = [len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), truth.tolist(), strict=True)]
    return statistics.fmean(shared)


def measure(args: argparse.Namespace, path: Path) -> dict[str, Any]:
    context = mp.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    builder = context.Process(target=build, args=(path, args, there))
    builder.start()
    there.close()  # so that a builder that dies ends the wait
    built = here.recv()
    builder.join()
    mine, my_pipe = start(context, ours, args, path)
    flat, flat_pipe = start(context, faiss_flat, args, path, True)
    ask(my_pipe), ask(flat_pipe)  # warm both
    times: dict[str, list[float]] = {"assay": [], "faiss": []}
    for _ in range(args.repeat):
        seconds, rows, my_peak = ask(my_pipe)
        times["assay"].append(seconds)
        seconds, truth, flat_peak = ask(flat_pipe)
        times["faiss"].append(seconds)
    drop_from_cache(path)
    cold = ask(my_pipe)[0]
    stop(flat, flat_pipe)
    stop(mine, my_pipe)
    exact, exact_pipe = start(context, faiss_flat, args, None, False)
    unrounded = ask(exact_pipe)[1]
    stop(exact, exact_pipe)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "seconds": times,
        "median_seconds": medians,
        "ratio": medians["assay"] / medians["faiss"],
        "cold_cache_seconds": cold,
        "assay_peak_bytes": my_peak,
        "faiss_peak_bytes": flat_peak,
        "same_rows_as_faiss_on_the_int8_features": recall(rows, truth),
        "recall_of_int8_against_float32": recall(rows, unrounded),
        "build": built,
        "index_bytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
    }


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "system": platform.system(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"rows": 1_000_000, "dim": 1024, "queries": 64, "k": 100, "repeat": 5, "threads": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--dir", type=Path, help="where the index is built; default: a temporary directory")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.dir) as scratch:
        result = measure(args, Path(scratch) / "index")
    import faiss

    sizes = {name: getattr(args, name) for name in ("rows", "dim", "queries", "k", "repeat", "threads")}
    options = " ".join(f"--{name} {value}" for name, value in sizes.items())
    report = {"command": f"python -m benchmarks.scan {options}", "machine": machine() | {"faiss": faiss.__version__}}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({"version": 1, **report, **sizes, **result}, indent=1) + "\n")
    summary = {key: result[key] for key in result if key != "seconds"}
    print(json.dumps(summary, indent=1), file=sys.stdout)


if __name__ == "__main__":
    main()
