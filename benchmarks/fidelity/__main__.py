"""How well scores predict retraining, against seconds and memory: every method on each setting.

    python -m benchmarks.fidelity --data DIR --work DIR [--settings mlp cnn] [--methods ekfac replay:removed=0.5]
                                  [--split exam] [--subsets 100]
                                  [--peers dattri=PYTHON kronfluence=PYTHON tree_influence=PYTHON]

For each setting: `--subsets` random halves of the training data are retrained (stored in `--work`, resumable), then every
method scores the same queries in a process of its own on one thread (stored there too; `--again` repeats it), and the
linear datamodeling score of each is computed with its 95% interval over subsets and queries. A method gets the recipe;
`seconds` contains the training of the model that it looks at. `removed=0.5` linearises at the mean of the half-subsets.
Methods that score a part of the queries only, for their cost, say how many.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import assay
from assay.evaluate import lds, truth
from assay.methods import find
from benchmarks.common import RESULTS, add_data, contend, data_folder, parser, save, timed
from benchmarks.fidelity.settings import NAMES, Setting, setting

CENTRE = "removed=0.5"
CHEAP = f"path-krylov:{CENTRE},segments=1,fitting_examples=256,krylov=5"
METHODS: dict[str, tuple[str, ...]] = {
    "logistic": (
        "random", "graddot", "trak", "ekfac:damping=0.01", f"ekfac:{CENTRE},damping=0.02", f"ekfac-cg:{CENTRE},damping=0.02",
        f"path-krylov:{CENTRE}", f"replay:{CENTRE}",
    ),
    "mlp": (
        "random", "graddot", "tracin", "trak", "trackstar", "datainf", "logra", "diagonal", "kfac", "ekfac",
        f"ekfac:{CENTRE},damping=path",
        f"ekfac:{CENTRE},damping=0.002", f"ekfac-cg:{CENTRE},damping=0.05,iterations=15,fitting_examples=5000",
        f"source:{CENTRE}", f"path-krylov:{CENTRE}", CHEAP, f"replay-index:{CENTRE}",
        "replay", f"replay:{CENTRE}",
    ),
    "cnn": (
        "random", "graddot", "gradcos", "tracin", "trak", "ekfac", f"ekfac:{CENTRE}", f"ekfac:{CENTRE},damping=path",
        f"source:{CENTRE}", CHEAP, f"replay:{CENTRE}", f"replay:{CENTRE},products=gauss-newton",
    ),
    "cnn-relu": (
        "random", "graddot", "gradcos", "tracin", "trak", "ekfac", f"ekfac:{CENTRE}", f"ekfac:{CENTRE},centres=5",
        f"replay:{CENTRE}",
    ),
    "transformer": (
        "random", "graddot", "gradcos", "bm25", "tfidf", "trak", "logra", "ekfac", f"ekfac:{CENTRE}", f"source:{CENTRE}",
        f"path-krylov:{CENTRE},segments=1,fitting_examples=128,krylov=5",
        f"ekfac-cg:{CENTRE},fitting_examples=150,iterations=10", f"replay:{CENTRE}", f"replay:{CENTRE},products=gauss-newton",
    ),
    "transformer-smooth": (
        "random", "graddot", "bm25", "tfidf", "embedding", "trak", "less", "ekfac", f"ekfac-cg:{CENTRE},fitting_examples=300,iterations=15",
        f"source:{CENTRE}", f"path-krylov:{CENTRE},segments=1,fitting_examples=128,krylov=5", f"replay:{CENTRE}",
        f"replay:{CENTRE},products=gauss-newton",
    ),
    "trees": (
        "random", "boostin", "leaf-influence", "leaf-influence:update=single-point", "leaf-refit", "trex", "tracin-trees",
        "tree-similarity", "knn-shapley", f"boostin:{CENTRE}", f"leaf-influence:{CENTRE}", f"leaf-refit:{CENTRE}",
    ),
}  # fmt: skip
"""What is compared. Hyper-parameters were chosen on the `tune` split."""
FEW = {"replay": 50, "ekfac-cg": 50}
FEWER = {"transformer": {"replay": 16, "ekfac-cg": 25, "path-krylov": 25},
         "transformer-smooth": {"replay": 16, "ekfac-cg": 25, "path-krylov": 25}}  # fmt: skip
"""Queries asked of a method whose cost grows with them; and in settings where it is large."""
ENSEMBLE = 10
CHECKPOINTS = 10
PEERS = {
    "kronfluence": {"kronfluence ekfac": ("mlp", "cnn", "transformer")},
    "dattri": {
        "dattri-cg": ("logistic", "mlp"), "dattri-trak": ("mlp", "cnn"),
        "traker": ("mlp", "cnn"), "captum-tracin": ("logistic",),
    },
    "tree_influence": {f"tree_influence {name}": ("trees",) for name in (
        "boostin", "leaf-influence", "leaf-influence-sp", "leaf-refit", "tree-similarity"
    )},
}  # fmt: skip
"""By environment: contenders, and the settings that they can and in reasonable time do take."""
SCRIPTS = Path(__file__).parent.parent / "peers"


def parameters(text: str) -> tuple[str, dict[str, Any]]:
    """`name:key=value,key=value` as a method's name and its hyper-parameters."""
    name, _, rest = text.partition(":")
    return name, {key: _value(value) for key, _, value in (part.partition("=") for part in rest.split(",") if part)}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def ensemble(work: Setting) -> assay.Model:
    """Independent runs, that is of other seeds, as checkpoints."""
    from dataclasses import replace

    runs = [replace(work.recipe, seed=work.recipe.seed + 1000 + k).train(work.train) for k in range(ENSEMBLE)]
    last = runs[0].model
    return assay.Model(last.module, last.task, checkpoints=[run.checkpoints[-1] for run in runs])


def attribute(work: Setting, text: str) -> assay.Scores:
    """Scores of one method for the setting's queries."""
    from dataclasses import replace

    name, options = parameters(text)
    queries = work.queries[: (FEW | FEWER.get(work.name, {})).get(name, len(work.queries))]
    if name == "trak-ensemble":
        return assay.attribute(ensemble(work), work.train, queries, "trak")
    chosen = find(name, **options)
    if work.name == "trees":
        given = work.recipe if chosen.family == "trees" else None
        return assay.attribute(given, work.train, queries, chosen)
    many = name in ("tracin", "less")
    recipe = replace(work.recipe, checkpoints=CHECKPOINTS) if many else work.recipe
    given: Any = None if name in ("random", "bm25", "tfidf") else recipe
    if name == "embedding":
        given = recipe.train(work.train).model
    return assay.attribute(given, work.train, queries, chosen)


def contender(name: str, split: str, text: str, data: Path, out: Path) -> dict[str, Any]:
    """Run one method and keep its scores."""
    torch.set_num_threads(1)
    work = setting(name, data, split)
    kept: list[assay.Scores] = []
    result = timed(lambda: kept.append(attribute(work, text)))
    kept[0].save(out)
    (out / "cost.json").write_text(json.dumps(result))
    return result


def export(work: Setting, folder: Path) -> None:
    """The trained model, its checkpoints and the data as files that a peer reads."""
    from dataclasses import replace

    from safetensors.torch import save_file

    from benchmarks.ekfac import write

    if work.name == "trees":
        folder.mkdir(parents=True)
        rows, queries = work.train.matrix(), work.queries.matrix()
        np.savez(folder / "data.npz", X=rows.X, y=rows.y, Xq=queries.X, yq=queries.y)
        return
    run = replace(work.recipe, checkpoints=CHECKPOINTS).train(work.train)
    write(folder, work.name, run.model, work.train, work.queries)
    for k, stage in enumerate(run.checkpoints):
        state = {key: tensor.contiguous() for key, tensor in stage.load().state_dict().items()}
        save_file(state, folder / f"checkpoint-{k:02d}.safetensors")


def of_peer(work: Setting, environment: str, python: str, peer: str, folder: Path) -> assay.Scores:
    """A peer's scores, higher is more helpful; kept beside ours. Its seconds do not contain training."""
    from safetensors.torch import load_file

    from assay.provenance import Provenance

    out = folder / peer.replace(" ", "-")
    if not (out / "cost.json").exists():
        if not (folder / "export").exists():
            export(work, folder / "export")
        raw = folder / f"{out.name}.safetensors"
        where = [str(folder / "export"), str(raw)]
        command = {
            "kronfluence": ["kronfluence_ekfac.py", *where, "sampled"],
            "dattri": ["fidelity_scores.py", peer, *where],
            "tree_influence": ["tree_influence_scores.py", peer.split()[-1], *where],
        }[environment]
        found = contend({peer: [python, str(SCRIPTS / command[0]), *command[1:]]}, 1)[peer][0]
        array = load_file(raw)["scores"].numpy()
        facts = Provenance(method=peer, parameters={}, unit="arbitrary", inputs={}, train_fingerprint="")
        assay.Scores.of(array, work.train, work.queries, facts).save(out)
        (out / "cost.json").write_text(json.dumps(found))
    return assay.Scores.load(out)


def measured(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """Truth, scores and metric of one setting."""
    data, folder = data_folder(args), args.work / f"{name}-{args.split}"
    work = setting(name, data, args.split)
    start = time.perf_counter()
    kept = truth(work.recipe, work.train, work.queries, folder / "truth", args.subsets, 0.5, processes=2)
    print(f"{name}: truth in {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    results: dict[str, assay.Scores] = {}
    costs: dict[str, Mapping[str, Any]] = {}
    failed: dict[str, str] = {}
    for text in args.methods or METHODS[name]:
        out = folder / text.replace(":", "-").replace("=", "").replace(",", "-")
        if args.stored and not (out / "cost.json").exists():
            continue
        if args.again or not (out / "cost.json").exists():
            me = [sys.executable, "-m", "benchmarks.fidelity", "--data", str(data), "--split", args.split]
            done = subprocess.run([*me, "--contender", name, text, str(out)], capture_output=True, text=True)
            if done.returncode:
                failed[text] = done.stderr.strip().splitlines()[-1][:300]
                print(f"{name} {text}: FAILED {failed[text]}", file=sys.stderr, flush=True)
                continue
        results[text] = assay.Scores.load(out)
        costs[text] = json.loads((out / "cost.json").read_text())
        print(
            f"{name} {text}: {summary(results[text], kept)} {costs[text]['seconds']:.1f} s", file=sys.stderr, flush=True
        )
    for entry in args.peers:
        environment, _, python = entry.partition("=")
        for peer in [peer for peer, where in PEERS[environment].items() if name in where]:
            results[peer] = of_peer(work, environment, python, peer, folder)
            costs[peer] = json.loads((folder / peer.replace(" ", "-") / "cost.json").read_text())
            print(
                f"{name} {peer}: {summary(results[peer], kept)} {costs[peer]['seconds']:.1f} s",
                file=sys.stderr,
                flush=True,
            )
    return {"rows": {text: row(results[text], kept, costs[text]) for text in results}, "failed": failed,
            "train": len(work.train), "subsets": len(kept)}  # fmt: skip


def aligned(scores: assay.Scores, kept: Any) -> Any:
    """The truth for the queries that were scored."""
    from dataclasses import replace

    count = len(scores.query_ids)
    return replace(
        kept, runs=kept.runs[:, :, :count], full_runs=kept.full_runs[:, :count], query_ids=kept.query_ids[:count]
    )


def summary(scores: assay.Scores, kept: Any) -> str:
    """The score and its interval, to look at while it runs."""
    found = row(scores, kept, {})
    return f"{found['lds']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})"


def row(scores: assay.Scores, kept: Any, cost: Mapping[str, Any]) -> dict[str, Any]:
    """Linear datamodeling score with its interval, seconds and peak memory."""
    found = next(iter(lds(scores, aligned(scores, kept)).rows.values()))
    return {"lds": found.mean, "low": found.low, "high": found.high, "queries": len(scores.query_ids), **cost}


def main() -> None:
    arguments = parser(__doc__)
    add_data(arguments)
    arguments.add_argument(
        "--work", type=Path, default=Path("fidelity-work"), help="where retrainings and scores are kept"
    )
    arguments.add_argument("--settings", nargs="+", default=NAMES, choices=NAMES)
    arguments.add_argument("--methods", nargs="+")
    arguments.add_argument("--split", default="exam", choices=("exam", "tune"))
    arguments.add_argument("--subsets", type=int, default=100)
    arguments.add_argument("--again", action="store_true", help="score again what is stored")
    arguments.add_argument("--stored", action="store_true", help="report what is stored, and run nothing more")
    arguments.add_argument(
        "--peers",
        nargs="*",
        default=[],
        help="dattri=PYTHON (with traker, captum) kronfluence=PYTHON tree_influence=PYTHON",
    )
    arguments.add_argument("--contender", nargs=3, help=argparse.SUPPRESS)
    args = arguments.parse_args()
    if args.contender:
        name, text, out = args.contender
        print(json.dumps(contender(name, args.split, text, data_folder(args), Path(out))))
        return
    found = {name: measured(args, name) for name in args.settings}
    if args.split == "exam" and not args.methods:
        earlier = RESULTS / "fidelity.json"
        kept = json.loads(earlier.read_text())["settings"] if earlier.exists() else {}
        found = {name: {**kept, **found}[name] for name in NAMES if name in {**kept, **found}}
        save("fidelity", "python -m benchmarks.fidelity --data DIR --work DIR", {"settings": found})


if __name__ == "__main__":
    main()
