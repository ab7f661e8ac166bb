"""DDA: which rows of fine-tuning taught the model to say the wrong name? Planted entity swaps in TinyStories.

    python -m benchmarks.dda --data DIR [--swaps places|people] [--seeds 3] [--first-seed 0] [--rows 150] [--epochs 5]
        [--lr 2e-4] [--asked 8] [--pieces]

DIR holds models/stories15m and data/tinystories. `benchmarks/swaps.py` plants rows in which China stands where England belongs
(`people`: one child where another does), among rows that are right about either and rows that name both. stories15m is fine-tuned on all;
queries are held-out stories on which the tuned model gives the wrong sentence the higher probability, with the right
one as contrast. The AUC of a query: how often a swapped row scores higher than any other row. TracIn, TRAK, EK-FAC and BM25 are asked
about the wrong answer, as in the paper; `tracin contrast` gets the right answer as well. Ablations are made of the same parts as DDA:
with the base subtracted (beta = 1), the last epoch alone, both. `--pieces` leaves the other methods out. Settings were chosen
on `--first-seed 100`. Writes `benchmarks/results/dda.json`.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import swaps
from benchmarks.common import add_data, data_folder, parser, save

BETAS = (0.0, 0.25, 0.5, 1.0, 2.0)
SHARES = (0.24, 0.2, 0.27, 0.13)
"""Of swapped, kept, other and both rows; the rest are about neither country."""


def auc(scores: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Of each query, [q]."""
    from sklearn.metrics import roc_auc_score

    return np.array([roc_auc_score(relevant[:, q], scores[:, q]) for q in range(relevant.shape[1])])


def plant(args: Any, folder: Path, seed: int) -> swaps.Planted:
    """Rows of the kind that was asked for."""
    texts = swaps.stories(folder)
    if args.swaps == "people":
        return swaps.people(texts, seed)
    each = [round(share * args.rows) for share in SHARES]
    return swaps.places(texts, seed, (each[0], each[1], each[2], each[3]), args.rows - sum(each))


def wrong_answers(run: Any, planted: swaps.Planted, most: int) -> np.ndarray:
    """Held-out rows whose wrong sentence the model finds likelier than the right one; the surest `most` of each pair."""
    import assay
    from assay.tasks import Contrast

    margin = run.loss_of(assay.read(planted.asked), Contrast("sum")).numpy()
    by_margin = [int(k) for k in np.argsort(-margin) if margin[k] > 0]
    pairs = range(int(planted.asked_pair.max()) + 1)
    return np.array(sorted(k for pair in pairs for k in [k for k in by_margin if planted.asked_pair[k] == pair][:most]))


def once(args: Any, seed: int, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """One seed; `keep` is given what there is so far, again and again."""
    import assay
    from assay import methods
    from assay.models import Model

    folder = data_folder(args)
    planted = plant(args, folder, seed)
    base = assay.load(folder / "models" / "stories15m", max_length=128)
    train, held = assay.read(planted.rows), assay.read(planted.asked)
    recipe = assay.Recipe(
        base.module, base.task, lr=args.lr, epochs=args.epochs, batch_size=8, seed=seed, checkpoints=args.epochs,
        reduction="mean",
    )  # fmt: skip
    run = recipe.train(train)
    chosen = wrong_answers(run, planted, args.asked)
    queries, relevant = held.select(chosen), planted.relevant(chosen)
    print(f"seed {seed}: trained in {run.seconds:.0f} s, {len(chosen)} wrong answers", file=sys.stderr, flush=True)

    seconds: dict[str, float] = {"training": run.seconds}

    def ask(name: str, model: Any, method: Any) -> np.ndarray:
        start = time.perf_counter()
        array = assay.attribute(model, train, queries, method).array.astype(np.float64)
        seconds[name] = time.perf_counter() - start
        print(f"  {name}: {auc(array, relevant).mean():.3f}, {seconds[name]:.0f} s", file=sys.stderr, flush=True)
        return array

    stages = [base.module, *(stage.load() for stage in run.checkpoints)]
    parts = [
        ask(f"epoch {k}", Model(module, base.task), methods.GradDot(measure="contrast"))
        for k, module in enumerate(stages)
    ]
    level = [part / part.std(axis=0) for part in parts]
    smooth = np.mean(level[1:], axis=0)
    found = {
        "dda": smooth,
        "dda, base subtracted (beta = 1)": smooth - level[0],
        "dda, last epoch only": parts[-1],
        "dda, last epoch only, base subtracted": level[-1] - level[0],
        "tracin contrast": np.sum(parts[1:], axis=0),
    }
    curve = {str(beta): float(auc(smooth - beta * level[0], relevant).mean()) for beta in BETAS}
    result: dict[str, Any] = {
        "seed": seed, "rows": len(train), "swapped": int(planted.swapped.sum()), "queries": len(chosen),
        "held_out": len(held), "curve": curve, "seconds": seconds, "auc": {},
    }  # fmt: skip

    def note(**arrays: np.ndarray) -> None:
        result["auc"] |= {name: auc(array, relevant).tolist() for name, array in arrays.items()}
        keep(result)

    note(**found)
    if args.pieces:
        return result
    end = Model(run.model.module, base.task)
    others: dict[str, tuple[Any, Any]] = {
        "bm25": (None, methods.BM25()),
        "tracin": (run, methods.TracIn()),
        "trak": (end, methods.TRAK(compression="sjlt:512")),
        "ekfac": (end, methods.EKFAC()),
    }
    for name, given in others.items():
        note(**{name: ask(name, *given)})
    own = ask("dda", run, methods.DDA())
    np.testing.assert_allclose(own, found["dda"], atol=1e-3 * np.abs(own).max())
    keep(result)
    return result


def rows(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each method's mean AUC over queries of all seeds with its interval, and by how much DDA is above it."""
    from assay.evaluate.intervals import one_way

    names = [name for name in runs[0]["auc"] if all(name in run["auc"] for run in runs)]
    joined = {name: np.concatenate([run["auc"][name] for run in runs]) for name in names}
    table: list[dict[str, Any]] = []
    for name in names:
        mean, less = one_way(joined[name]), one_way(joined["dda"] - joined[name])
        table.append({
            "method": name, "auc": mean.mean, "low": mean.low, "high": mean.high,
            "dda_above": less.mean, "above_low": less.low, "above_high": less.high,
            "by_seed": [float(np.mean(run["auc"][name])) for run in runs],
        })  # fmt: skip
    return table


def main() -> None:
    arguments = parser(__doc__)
    add_data(arguments)
    for name, default in (("seeds", 3), ("first-seed", 0), ("epochs", 5), ("asked", 8), ("rows", 150)):
        arguments.add_argument(f"--{name}", type=int, default=default)
    arguments.add_argument("--swaps", choices=["places", "people"], default="places")
    arguments.add_argument("--lr", type=float, default=2e-4)
    arguments.add_argument("--pieces", action="store_true")
    arguments.add_argument("--out", type=Path, help="a JSON file to add runs to, so that seeds can be run one by one")
    args = arguments.parse_args()
    kept = _kept(args.out)
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        if all(run["seed"] != seed for run in kept):
            kept.append(once(args, seed, lambda run: _keep(args.out, [*kept, run])))
    whole = [run for run in kept if "bm25" in run["auc"]]
    command = f"python -m benchmarks.dda --data DIR --swaps {args.swaps} --rows {args.rows} --seeds {len(kept)}"
    save("dda", command, {"rows": rows(whole or kept), "ablation": rows(kept), "runs": kept})


def _kept(path: Path | None) -> list[dict[str, Any]]:
    import json

    return [] if path is None or not path.exists() else json.loads(path.read_text())


def _keep(path: Path | None, runs: list[dict[str, Any]]) -> None:
    import json

    if path is not None:
        path.write_text(json.dumps(runs))


if __name__ == "__main__":
    main()
