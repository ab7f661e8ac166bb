"""EK-FAC against kronfluence, and how well the two agree.

    python -m benchmarks.ekfac --data DIR [--kronfluence PYTHON] [--bergson PYTHON] [--repeat 3]

Speed: `stories15m` on 100 TinyStories cut at 256 tokens, 8 queries, the 42 projections (all linear layers but the head):
factors and scores, two threads, every contender in a process of its own, in turn; loading is not counted. `plain` is the
model library's own forward and backward pass over the same 100 stories, `one query` and `64 queries` are ours; `scan` is the
pass of `scores` over the training examples.
Agreement: Spearman correlation of the scores, per query, on the MLP and the transformer of `benchmarks.fidelity`.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import spearmanr

import assay
from assay.methods.gradient.live import Live
from benchmarks.common import RESULTS, add_data, contend, data_folder, medians, parser, save, timed
from benchmarks.fidelity.settings import setting
from benchmarks.indexing import stories

ROWS, QUERIES, MANY = 100, 8, 64
ASKED = 20
"""Queries of the comparison of scores."""
PEERS = ("kronfluence", "bergson")
PEER = Path(__file__).parent / "peers"


def tensors(model: assay.Model, examples: Any, part: str) -> dict[str, torch.Tensor]:
    """What the peer reads: the task's own tensors of all examples, padded to the longest."""
    batch = model.task.collate([model.task.encode(example) for example in examples])
    return {f"{part}.{name}": tensor.contiguous() for name, tensor in batch.tensors.items()}


def write(folder: Path, name: str, model: assay.Model, train: Any, queries: Any) -> None:
    """One piece of work as files; `name` is the setting's."""
    folder.mkdir(parents=True)
    save_file({**tensors(model, train, "train"), **tensors(model, queries, "query")}, folder / "data.safetensors")
    module: Any = model.module
    if hasattr(module, "save_pretrained"):
        module.save_pretrained(folder / "model")
        model.task.tokenizer.save_pretrained(folder / "model")  # type: ignore[attr-defined]
    else:
        save_file({key: t.contiguous() for key, t in module.state_dict().items()}, folder / "module.safetensors")
        (folder / "name.txt").write_text(name)


def contender(name: str, model_path: str, data: str) -> dict[str, Any]:
    """Run one of ours, or the plain pass."""
    torch.set_num_threads(2)
    texts = json.loads(Path(data).read_text())
    model = assay.load(model_path, modules="*_proj")
    train = assay.read([{"text": text} for text in texts[:ROWS]])
    if name == "plain":
        module: Any = model.module
        items = [model.task.encode(example) for example in train]

        def loop() -> None:
            for start in range(0, len(items), 8):
                module(**model.task.collate(items[start : start + 8]).tensors, use_cache=False).loss.backward()

        return timed(loop)
    count = {"assay": QUERIES, "one query": 1, "64 queries": MANY}[name]
    queries = assay.read([{"text": text} for text in texts[ROWS : ROWS + count]])
    method = assay.methods.EKFAC()
    start = time.perf_counter()
    fitted = method.fit(model, train)
    middle = time.perf_counter()
    assert isinstance(fitted, Live)
    scans: list[float] = []

    def scan(*given: Any) -> None:
        scans.append(timed(lambda: multiply(*given))["seconds"])

    multiply = fitted.multiply
    object.__setattr__(fitted, "multiply", scan)
    result = timed(lambda: fitted.score(queries))
    return {"seconds": time.perf_counter() - start, "factors": middle - start, "scores": result["seconds"],
            "scan": sum(scans), "peak": result["peak"]}  # fmt: skip


def speed(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """All contenders in turn."""
    folder = data_folder(args)
    texts = stories(folder, ROWS + MANY)
    data, path = scratch / "stories.json", folder / "models" / "stories15m"
    data.write_text(json.dumps(texts))
    me = [sys.executable, "-m", "benchmarks.ekfac", "--contender"]
    commands = {
        name: [*me, name, "--paths", str(path), str(data)] for name in ("plain", "assay", "one query", "64 queries")
    }
    work = scratch / "speed"
    write(work, "stories", assay.load(path), assay.read(texts[:ROWS]), assay.read(texts[ROWS : ROWS + QUERIES]))
    for peer in PEERS:
        python = getattr(args, peer)
        if python:
            commands[peer] = [python, str(PEER / f"{peer}_ekfac.py"), str(work), str(scratch / peer), "sampled"]
    runs = contend(commands, args.repeat)
    parts = {key: medians(runs, key) for key in ("seconds", "factors", "scores", "scan", "peak")}
    return {"rows": ROWS, "queries": QUERIES, "median_seconds": parts, "runs": runs}


def agreement(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Spearman correlation of our scores with the peer's: with the true labels, and with labels drawn from the model,
    where ours with another seed tells what the draws alone change.
    """
    found: dict[str, Any] = {}
    for name in ("mlp", "transformer"):
        work = setting(name, data_folder(args), "tune")
        model = work.recipe.train(work.train).model
        model = assay.Model(model.module, model.task, modules="*_proj" if name == "transformer" else None)
        train, queries = work.train[: args.rows], work.queries[:ASKED]
        write(scratch / name, name, model, train, queries)

        def ours(fisher: str, seed: int = 0) -> Any:
            return assay.attribute(model, train, queries, assay.methods.EKFAC(fisher=fisher, seed=seed)).array  # noqa: B023

        for fisher in ("empirical", "sampled"):
            out = scratch / f"{name}-{fisher}.safetensors"
            contend(
                {
                    f"kronfluence {name} {fisher}": [
                        args.kronfluence,
                        str(PEER / "kronfluence_ekfac.py"),
                        str(scratch / name),
                        str(out),
                        fisher,
                    ]
                },
                1,
            )
            row = found.setdefault(name, {})
            row[fisher] = spearman(ours(fisher), load_file(out)["scores"].numpy())
        row["sampled, another seed of ours"] = spearman(ours("sampled"), ours("sampled", 1))
    return found


def spearman(ours: Any, theirs: Any) -> dict[str, float]:
    """Of each query's column."""
    each = [float(spearmanr(a, b).statistic) for a, b in zip(ours.T, theirs.T, strict=True)]
    return {"mean": float(np.mean(each)), "least": min(each)}


def main() -> None:
    arguments = parser(__doc__)
    add_data(arguments)
    arguments.add_argument("--repeat", type=int, default=3)
    arguments.add_argument("--rows", type=int, default=300, help="training examples of the comparison of scores")
    arguments.add_argument("--parts", nargs="*", default=["speed", "agreement"], help="the others stay as they are")
    for peer in PEERS:
        arguments.add_argument(f"--{peer}", help=f"the Python of an environment with {peer}")
    arguments.add_argument("--contender", help=argparse.SUPPRESS)
    arguments.add_argument("--paths", nargs=2, help=argparse.SUPPRESS)
    args = arguments.parse_args()
    if args.contender:
        print(json.dumps(contender(args.contender, *args.paths)))
        return
    known = RESULTS / "ekfac.json"
    result: dict[str, Any] = json.loads(known.read_text()) if known.exists() else {}
    result = {part: result[part] for part in ("speed", "agreement") if part in result}
    with tempfile.TemporaryDirectory() as scratch:
        if "speed" in args.parts:
            result["speed"] = speed(args, Path(scratch))
        if "agreement" in args.parts and args.kronfluence:
            result["agreement"] = agreement(args, Path(scratch))
    given = "".join(f" --{peer} PYTHON" for peer in PEERS if getattr(args, peer))
    save("ekfac", f"python -m benchmarks.ekfac --data DIR --repeat {args.repeat}{given}", result)


if __name__ == "__main__":
    main()
