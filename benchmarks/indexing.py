"""Building an index against a plain forward and backward pass over the same batches, and against bergson.

    python -m benchmarks.indexing --data DIR [--rows 400] [--repeat 3] [--bergson PYTHON] [--growth]

`stories15m` on TinyStories of at most 256 tokens, rank 16 x 16 a module, two threads, every contender in a process of
its own, in turn. Loading models is not counted. Contenders:

    plain            the model library's own forward + backward, weight gradients included
    plain frozen     the same without weight gradients
    assay            all parameters (42 linear layers, the tied embedding and head, 13 norms), written to disk
    assay linear     the 42 linear layers that bergson covers, written to disk
    bergson          its `build` (projection_dim 16, token_batch_size 2048); --bergson: the Python of an environment with it

`--growth` measures time and peak memory of `assay` from 100 to 3,200 examples and from 32 to 256 tokens instead.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import add_data, contend, data_folder, medians, parser, save, timed

CONTEXT = 256
LINEAR = ("*_proj",)


def stories(data: Path, rows: int) -> list[str]:
    """So many stories that fit the context whole; repeated with a new first word if there are not enough."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(data / "models" / "stories15m")
    texts = (data / "data" / "tinystories" / "tinystories_sample.txt").read_text().split("<|endoftext|>")
    texts = [text.strip() for text in texts[:-1]]
    fitting = [t for t in texts if t and len(tokenizer(t, verbose=False)["input_ids"]) <= CONTEXT - 4]
    return [fitting[k % len(fitting)] if k < len(fitting) else f"{k} {fitting[k % len(fitting)]}" for k in range(rows)]


def contender(name: str, model_path: str, data: str, max_length: int | None) -> dict[str, Any]:
    """Run one of ours, or a plain pass, and measure it."""
    import assay
    from assay.gradients.features import EXAMPLES, POSITIONS, pack

    torch.set_num_threads(2)
    model = assay.load(model_path, modules=LINEAR if name == "assay linear" else None, max_length=max_length)
    train = assay.read(data)
    tokens = sum(model.task.encode(example).length for example in train)
    if name.startswith("assay"):
        with tempfile.TemporaryDirectory() as scratch:
            build = lambda: assay.build(model, train, Path(scratch) / "index", compression="factored:16")  # noqa: E731
            return timed(build) | {"tokens": tokens}
    items = [model.task.encode(example) for example in train]
    groups = pack([item.length for item in items], POSITIONS, EXAMPLES)
    module: Any = model.module
    if name == "plain frozen":
        module.requires_grad_(False)
        module.get_input_embeddings().register_forward_hook(lambda _m, _a, output: output.requires_grad_())

    def loop() -> None:
        for group in groups:
            batch = model.task.collate([items[k] for k in group])
            module(**batch.tensors, use_cache=False).loss.backward()

    return timed(loop)


def compare(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """All contenders in turn."""
    folder = data_folder(args)
    data = scratch / "stories.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in stories(folder, args.rows)))
    model = folder / "models" / "stories15m"
    me = [sys.executable, "-m", "benchmarks.indexing"]
    names = ["plain", "plain frozen", "assay", "assay linear"]
    commands = {name: [*me, "--contender", name, "--paths", str(model), str(data)] for name in names}
    if args.bergson:
        script = Path(__file__).parent / "peers" / "bergson_build.py"
        commands["bergson"] = [
            args.bergson,
            str(script),
            str(_roomy(model, scratch)),
            str(data),
            str(scratch / "bergson"),
        ]
    runs = contend(commands, args.repeat)
    seconds, peaks = medians(runs), medians(runs, "peak")
    ratios = {
        f"{mine} / {other}": seconds[mine] / seconds[other]
        for mine in ("assay", "assay linear")
        for other in ("plain", "plain frozen", "bergson")
        if other in seconds
    }
    memory = {name: peaks["assay"] / peaks[name] for name in ("plain", "plain frozen")}
    return {
        "rows": args.rows,
        "median_seconds": seconds,
        "time_ratios": ratios,
        "peak_bytes": peaks,
        "memory_of_assay_over": memory,
        "bergson": runs["bergson"][0] if args.bergson else None,
        "runs": runs,
    }


def growth(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Time and memory of `assay` as the examples double (32 tokens each at most), and as the length of 400 doubles."""
    folder = data_folder(args)
    commands = {}
    for rows, length in [(100 * 2**k, 32) for k in range(6)] + [(400, 32 * 2**k) for k in range(4)]:
        data = scratch / f"{rows}.jsonl"
        data.write_text("".join(json.dumps({"text": text}) + "\n" for text in stories(folder, rows)))
        me = [
            sys.executable,
            "-m",
            "benchmarks.indexing",
            "--contender",
            "assay",
            "--max-length",
            str(length),
            "--paths",
        ]
        commands[f"{rows} x {length}"] = [*me, str(folder / "models" / "stories15m"), str(data)]
    return {"sizes": {name: runs[0] for name, runs in contend(commands, 1).items()}}


def _roomy(model: Path, scratch: Path) -> Path:
    """A copy of the model with a larger context, which bergson needs to pack 2,048 tokens."""
    copy = scratch / "roomy"
    if not copy.exists():
        shutil.copytree(model, copy, copy_function=shutil.copyfile)
        for name, key in (("config.json", "max_position_embeddings"), ("tokenizer_config.json", "model_max_length")):
            settings = json.loads((copy / name).read_text())
            (copy / name).write_text(json.dumps(settings | {key: 4096}))
    return copy


def main() -> None:
    arguments = parser(__doc__)
    add_data(arguments)
    arguments.add_argument("--rows", type=int, default=400)
    arguments.add_argument("--repeat", type=int, default=3)
    arguments.add_argument("--bergson", help="Python of an environment with bergson")
    arguments.add_argument("--growth", action="store_true")
    arguments.add_argument("--contender", help=argparse.SUPPRESS)
    arguments.add_argument("--max-length", type=int, help=argparse.SUPPRESS)
    arguments.add_argument("--paths", nargs=2, help=argparse.SUPPRESS)
    args = arguments.parse_args()
    if args.contender:
        print(json.dumps(contender(args.contender, *args.paths, args.max_length)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        if args.growth:
            save("growth", "python -m benchmarks.indexing --growth", growth(args, Path(scratch)))
        else:
            command = f"python -m benchmarks.indexing --rows {args.rows} --repeat {args.repeat} --bergson PYTHON"
            save("indexing", command, compare(args, Path(scratch)))


if __name__ == "__main__":
    main()
