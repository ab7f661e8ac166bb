"""EK-FAC against kronfluence, and how well the two agree.

    python -m benchmarks.ekfac --data DIR [--kronfluence PYTHON] [--repeat 3]

Speed: `stories15m` on 100 TinyStories cut at 256 tokens, 8 queries, the 42 projections (all linear layers but the head):
factors and scores, two threads, every contender in a process of its own, in turn; loading is not counted. `plain` is the
model library's own forward and backward pass over the same 100 stories, `one query` and `64 queries` are ours.
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
from benchmarks.common import add_data, contend, data_folder, medians, parser, save, timed
from benchmarks.fidelity.settings import setting
from benchmarks.indexing import stories

ROWS, QUERIES, MANY = 100, 8, 64
PEER = Path(__file__).parent / "peers" / "kronfluence_ekfac.py"


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
    result = timed(lambda: fitted.score(queries))
    return {"seconds": time.perf_counter() - start, "factors": middle - start, "scores": result["seconds"],
            "peak": result["peak"]}  # fmt: skip


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
    if args.kronfluence:
        work = scratch / "speed"
        model = assay.load(path)
        write(work, "stories", model, assay.read(texts[:ROWS]), assay.read(texts[ROWS : ROWS + QUERIES]))
        commands["kronfluence"] = [args.kronfluence, str(PEER), str(work), str(scratch / "speed.safetensors")]
    runs = contend(commands, args.repeat)
    parts = {key: medians(runs, key) for key in ("seconds", "factors", "scores")}
    return {"median_seconds": parts, "runs": runs}


def agreement(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Spearman correlation of our scores with the peer's."""
    found: dict[str, Any] = {}
    for name in ("mlp", "transformer"):
        work = setting(name, data_folder(args), "tune")
        model = work.recipe.train(work.train).model
        model = assay.Model(model.module, model.task, modules="*_proj" if name == "transformer" else None)
        train, queries = work.train[:600], work.queries[:50]
        write(scratch / name, name, model, train, queries)
        out = scratch / f"{name}.safetensors"
        contend({"kronfluence": [args.kronfluence, str(PEER), str(scratch / name), str(out)]}, 1)
        theirs = load_file(out)["scores"].numpy()
        ours = assay.attribute(model, train, queries, "ekfac").array
        each = [float(spearmanr(ours[:, q], theirs[:, q]).statistic) for q in range(len(queries))]
        found[name] = {"mean": float(np.mean(each)), "least": min(each)}
    return found


def main() -> None:
    arguments = parser(__doc__)
    add_data(arguments)
    arguments.add_argument("--repeat", type=int, default=3)
    arguments.add_argument("--kronfluence", help="the Python of an environment with kronfluence")
    arguments.add_argument("--contender", help=argparse.SUPPRESS)
    arguments.add_argument("--paths", nargs=2, help=argparse.SUPPRESS)
    args = arguments.parse_args()
    if args.contender:
        print(json.dumps(contender(args.contender, *args.paths)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        result = speed(args, Path(scratch))
        if args.kronfluence:
            result["agreement"] = agreement(args, Path(scratch))
    command = f"python -m benchmarks.ekfac --repeat {args.repeat}" + " --kronfluence PYTHON" * bool(args.kronfluence)
    save("ekfac", command, result)


if __name__ == "__main__":
    main()
