"""TRAK on the CPU against traker and dattri: an MLP of 109k parameters, 500 x 50 MNIST images, 512 dimensions, float32.

    python -m benchmarks.trak --data DIR --peer PYTHON [--repeat 5]

`--peer`: the Python of an environment with traker and dattri. Every contender runs in a process of its own, in turn, two
threads; features and scores are timed, imports and loading are not. Also reports how well the scores agree (they share
only the model: random projections differ), and what our two compressions cost.
"""

import argparse
import gzip
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.common import add_data, contend, data_folder, medians, parser, save, timed

COMPRESSIONS = {"assay sjlt": "sjlt:512", "assay factored": "factored:13"}


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def digits(folder: Path, kind: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first images as rows of numbers in [0, 1], and their labels."""
    images = np.frombuffer(gzip.decompress((folder / f"{kind}-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((folder / f"{kind}-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    return torch.tensor(images.reshape(-1, 784)[:count] / 255, dtype=torch.float32), torch.tensor(labels[:count]).long()


def prepare(folder: Path, path: Path) -> None:
    """Train the MLP on the 500 images and store it with the data."""
    import assay

    x, y = digits(folder, "train", 500)
    xq, yq = digits(folder, "t10k", 50)
    recipe = assay.Recipe(mlp, assay.tasks.Classify(), optimizer="sgd", lr=0.1, epochs=10, batch_size=64)
    state = recipe.train((x, y)).model.module.state_dict()
    save_file(
        {"x": x, "y": y, "xq": xq, "yq": yq, **{f"model.{name}": t.contiguous() for name, t in state.items()}}, path
    )


def contender(name: str, path: str) -> dict[str, Any]:
    import assay

    torch.set_num_threads(2)
    arrays = load_file(path)
    module = mlp()
    module.load_state_dict({k.removeprefix("model."): t for k, t in arrays.items() if k.startswith("model.")})
    model = assay.Model(module, assay.tasks.Classify())
    kept: list[Any] = []
    method = assay.methods.TRAK(compression=COMPRESSIONS[name], damping=None)

    def run() -> None:
        kept.append(assay.attribute(model, (arrays["x"], arrays["y"]), (arrays["xq"], arrays["yq"]), method))

    return timed(run) | {"scores": kept[0].array.flatten().tolist()}


def agreement(runs: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Mean over queries of Spearman's correlation of the scores, between contenders."""
    from scipy.stats import spearmanr

    scores = {name: np.array(rows[0].pop("scores")).reshape(500, 50) for name, rows in runs.items()}
    for rows in runs.values():
        for row in rows[1:]:
            row.pop("scores")
    names = list(scores)
    return {
        f"{a} ~ {b}": statistics.fmean(spearmanr(scores[a][:, q], scores[b][:, q]).statistic for q in range(50))
        for k, a in enumerate(names)
        for b in names[k + 1 :]
    }


def main() -> None:
    arguments = parser(__doc__)
    add_data(arguments)
    arguments.add_argument("--peer", help="Python of an environment with traker and dattri")
    arguments.add_argument("--repeat", type=int, default=5)
    arguments.add_argument("--contender", help=argparse.SUPPRESS)
    arguments.add_argument("--path", help=argparse.SUPPRESS)
    args = arguments.parse_args()
    if args.contender:
        print(json.dumps(contender(args.contender, args.path)))
        return
    folder = data_folder(args) / "data" / "mnist"
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "arrays.safetensors"
        prepare(folder, path)
        me = [sys.executable, "-m", "benchmarks.trak"]
        commands = {name: [*me, "--contender", name, "--path", str(path)] for name in COMPRESSIONS}
        if args.peer:
            script = str(Path(__file__).parent / "peers" / "trak_mnist.py")
            commands |= {name: [args.peer, script, name, str(path), "512"] for name in ("traker", "dattri")}
        runs = contend(commands, args.repeat)
    seconds = medians(runs)
    peers = [seconds[name] for name in ("traker", "dattri") if name in seconds]
    ratios = {f"{name} / faster peer": seconds[name] / min(peers) for name in COMPRESSIONS} if peers else {}
    result = {"median_seconds": seconds, "ratios": ratios, "spearman": agreement(runs), "runs": runs}
    save("trak", f"python -m benchmarks.trak --repeat {args.repeat} --peer PYTHON", result)


if __name__ == "__main__":
    main()
