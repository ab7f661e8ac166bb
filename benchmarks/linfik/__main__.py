"""LinFiK and ALinFiK on five domains of real text: what a scorer knows, what it costs, and what selecting by it does.

    python -m benchmarks.linfik measure --data DIR --work WORK      values by the model
    python -m benchmarks.linfik clock --data DIR --work WORK        processor time of the model and of a scorer
    python -m benchmarks.linfik select --data DIR --work WORK [--targets plays math] [--seeds 3] [--first-seed 0]
        [--order 10] [--ways bm25 linfik alinfik] [--minutes 4.5]
    python -m benchmarks.linfik report --data DIR --work WORK       what scorers know; writes the result file

stories15m, rows of at most 240 characters and 96 tokens. `measure` keeps what it has in WORK and goes on from it; so does `select`.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import assay
from assay.compress.against import Against
from assay.gradients.features import feature_tiles, layout_for
from assay.index.build import PROBE
from assay.methods import LinFiK
from assay.methods.gradient.base import inverse, mean_gradient
from assay.methods.gradient.live import Live
from assay.methods.student.distil import Held, distil
from assay.methods.student.pieces import Told
from assay.methods.student.scorer import Scorer
from assay.methods.student.told import by_token
from assay.training import Recipe
from benchmarks.common import data_folder, parser
from benchmarks.linfik.data import ROWS, Row, poisoned, pool_of, sample_of, split

LENGTH = 96
CHUNK = 50
ORDER = ("stories", "math", "code", "tweets", "plays")
WANTED = ("plays", "math")
"""Targets of which selections are reported; LinFiK's step was chosen on tweets, code and stories, with the seed 100."""
PLANTED = (*((plant, seed) for seed in range(1, 4) for plant in ("capitals", "ending")), ("text", 0))
"""What was planted, and the seed, of poisoned pools. Seed 0 of the first two was looked at when they were designed."""
CANDIDATES, SHARE = 200, 0.2
TAUGHT = 158
"""Rows of the sample that scorers are fitted to."""
RECIPE: dict[str, Any] = {"optimizer": "adamw", "lr": 1e-4, "epochs": 1, "batch_size": 8, "reduction": "mean"}


def load(folder: Path) -> assay.Model:
    return assay.load(folder / "models" / "stories15m", max_length=LENGTH)


def measure(folder: Path, work: Path) -> None:
    """LinFiK of poisoned pools for what they have planted, as loss and against the ordinary answer, by the plain product; and of the
    pool for the targets of each domain, and its parts by token for the sample, by the normalised step.
    """
    model = load(folder)
    for plant, seed in PLANTED:
        place = work / f"poison-{plant}-{seed}.npz"
        if not place.exists():
            rows, targets = poisoned(folder, plant, seed)
            measures = ["loss", *(["contrast"] if plant != "text" else [])]
            methods = [LinFiK(step="plain", measure=one) for one in measures]
            psi = [mean_gradient(model, assay.read(targets), method).features for method in methods]
            np.savez(place, values=scan(model, rows, torch.cat(psi), methods[0])[0])
            print(place.stem, flush=True)
    measure_pool(model, folder, work)
    measure_sample(model, folder, work)


def measure_pool(model: assay.Model, folder: Path, work: Path) -> None:
    """LinFiK fitted to the pool, for each domain's targets by one pass."""
    pool, left = pool_of(folder), [k for k in range(0, ROWS, CHUNK) if not (work / f"pool-{k}.npz").exists()]
    if left:
        psi = turned(fit(model, pool), folder)
        for k in left:
            values, loss = scan(model, pool[k : k + CHUNK], psi, LinFiK())
            np.savez(work / f"pool-{k}.npz", values=values, loss=loss)
            print(f"pool-{k}", flush=True)


def measure_sample(model: assay.Model, folder: Path, work: Path) -> None:
    """Parts by token for each domain's targets, of LinFiK fitted to the sample."""
    rows, (_, targets, _) = sample_of(folder, TAUGHT), split(folder)
    if not (work / f"told-{len(rows) - 1}.npz").exists():
        fitted = fit(model, rows)
        each = [by_token(fitted, assay.read(rows), assay.read(targets[name])) for name in ORDER]
        for k, told in enumerate(zip(*each, strict=True)):
            np.savez(work / f"told-{k}.npz", ends=told[0].ends, parts=[one.parts for one in told])


def fit(model: assay.Model, rows: list[Row]) -> Live:
    """What LinFiK knows of a pool."""
    fitted = LinFiK().fit(model, assay.read(rows))
    assert isinstance(fitted, Live)
    return fitted


def turned(fitted: Live, folder: Path) -> torch.Tensor:
    """What gradients are multiplied with, for the targets of each domain."""
    _, targets, _ = split(folder)
    psi = [mean_gradient(fitted.model, assay.read(targets[name]), fitted.method).features for name in ORDER]
    return fitted.turned(torch.cat(psi), 0)


def scan(model: assay.Model, rows: list[Row], psi: torch.Tensor, method: LinFiK) -> tuple[np.ndarray, np.ndarray]:
    """LinFiK of rows for several sets of targets by one pass, as `assay.value` gives it for each, [rows, sets]; and losses."""
    train, loss, unit = assay.read(rows), method.train_measurement(), method.rows() == "norm"
    against = Against(psi=psi, squares=unit)
    tiles = list(feature_tiles(model, train, against, loss, layout_for(model, train, loss, PROBE)))
    found = torch.cat([tile.features for tile in tiles]).double()
    values = found[:, : len(psi)] * inverse(found[:, -1:].sqrt()) if unit else found
    return values.numpy(), np.concatenate([tile.statistics["value"].numpy() for tile in tiles])


def clock(folder: Path, work: Path) -> None:
    """Processor seconds a row, on one thread: of LinFiK by the public way, and of a scorer fitted to what came out."""
    model, pool, (_, targets, _) = load(folder), pool_of(folder), split(folder)
    torch.set_num_threads(1)
    rows, on = pool[:40], targets["math"][:4]
    seconds: list[float] = []
    for _ in range(2):
        start = time.process_time()
        assay.value(model, rows, on, "linfik")
        seconds.append((time.process_time() - start) / (len(rows) + len(on)))
    texts = [row["text"] for row in pool]
    scorer, _ = fitted(*taught(folder, work, "math"))
    each: list[float] = []
    for _ in range(5):
        start = time.process_time()
        scorer.predict(texts)
        each.append((time.process_time() - start) / len(texts))
    found = {"linfik": min(seconds), "scorer": float(np.median(each)), "rows": len(texts)}
    (work / "clock.json").write_text(json.dumps(found))
    print(found)


def measured(work: Path, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Values [rows, targets] and losses of the pool."""
    parts = [np.load(work / f"pool-{k}.npz") for k in range(0, rows, CHUNK)]
    return tuple(np.concatenate([part[key] for part in parts]).astype(float) for key in ("values", "loss"))  # type: ignore[return-value]


def taught(folder: Path, work: Path, target: str) -> tuple[list[Row], list[Told]]:
    """The rows of the sample that have been measured, and the parts of their values for a target."""
    rows = [row for k, row in enumerate(sample_of(folder, TAUGHT)) if (work / f"told-{k}.npz").exists()]
    found = [np.load(work / f"told-{k}.npz") for k in range(len(rows))]
    return rows, [Told(one["ends"], one["parts"][ORDER.index(target)]) for one in found]


def fitted(rows: list[Row], told: list[Told], whole: bool = False) -> tuple[Scorer, Held]:
    """A scorer of these rows, taught by token or, if `whole`, by row."""
    values = np.array([one.parts.sum() for one in told])
    return distil([row["text"] for row in rows], values, [row["source"] for row in rows], told=None if whole else told)


def selections(
    model: assay.Model,
    pool: list[Row],
    values: np.ndarray,
    loss: np.ndarray,
    targets: list[Row],
    scorer: Scorer,
    seed: int,
) -> dict[str, Callable[[], np.ndarray]]:
    """Rows of a pool by each way of choosing; `values` are LinFiK's for the targets, and the scorer has seen none of the rows."""
    scores: dict[str, Callable[[], np.ndarray]] = {
        "random": lambda: np.random.default_rng(seed).random(len(pool)),
        "bm25": lambda: assay.value(None, pool, targets, "bm25").array,
        "perplexity": lambda: -loss,
        "gradcos": lambda: assay.value(model, pool, targets, "gradcos").array,
        "linfik": lambda: values,
        "alinfik": lambda: scorer.predict([row["text"] for row in pool]).value,
    }

    def best(score: Callable[[], np.ndarray]) -> np.ndarray:
        return np.argsort(-score(), kind="stable")[: round(SHARE * len(pool))]

    return {name: partial(best, score) for name, score in scores.items()}


def select(folder: Path, work: Path, args: argparse.Namespace) -> None:
    """Fine-tune on each selection, and measure the loss of held-out rows of the target's domain; a line for each training."""
    wanted, seeds, minutes = args.targets, range(args.first_seed, args.first_seed + args.seeds), args.minutes
    until, model = time.perf_counter() + 60 * minutes, load(folder)
    pool, (_, targets, held) = pool_of(folder), split(folder)
    values, loss = measured(work, len(pool))
    scorers = {name: fitted(*taught(folder, work, name))[0] for name in wanted}
    place = work / "trainings.jsonl"
    done = [json.loads(line) for line in place.read_text().splitlines()] if place.exists() else []
    known = {(line["target"], line["seed"], line["by"], line.get("order")) for line in done}
    for seed in seeds:
        rows = np.random.default_rng(100 + seed).permutation(len(pool))[:CANDIDATES]
        candidates = [pool[k] for k in rows]
        for name in wanted:
            found = selections(
                model, candidates, values[rows, ORDER.index(name)], loss[rows], targets[name], scorers[name], seed
            )
            order = seed if args.order is None else args.order
            recipe = Recipe(model.module, model.task, seed=order, **RECIPE)
            on = recipe.encode(assay.read(held[name]))
            for by in args.ways or ("before", *found):
                if (name, seed, by, args.order) in known or time.perf_counter() > until:
                    continue
                chosen, start = found[by]() if by in found else np.zeros(0, int), time.perf_counter()
                train = [candidates[k] for k in (chosen if len(chosen) else [0])]
                run = recipe.train(assay.read(train), None if len(chosen) else [0.0])
                after = float(run.loss_of(on).double().mean())
                mix = {source: int(sum(row["source"] == source for row in train)) for source in ORDER}
                line = {
                    "target": name,
                    "seed": seed,
                    "order": args.order,
                    "by": by,
                    "loss": after,
                    "mix": mix,
                    "s": time.perf_counter() - start,
                }
                with place.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(json.dumps(line), flush=True)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("what", choices=["measure", "clock", "select", "report"])
    arguments.add_argument("--data", type=Path, required=True)
    arguments.add_argument("--work", type=Path, required=True)
    arguments.add_argument("--targets", nargs="+", choices=ORDER, default=list(WANTED))
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--first-seed", type=int, default=0)
    arguments.add_argument("--order", type=int, help="seed of the training, if another than the selection's")
    arguments.add_argument("--ways", nargs="+", help="ways of choosing; all by default")
    arguments.add_argument("--minutes", type=float, default=1e9)
    args: argparse.Namespace = arguments.parse_args()
    folder = data_folder(args)
    args.work.mkdir(parents=True, exist_ok=True)
    if args.what == "measure":
        measure(folder, args.work)
    elif args.what == "clock":
        clock(folder, args.work)
    elif args.what == "select":
        select(folder, args.work, args)
    else:
        from benchmarks.linfik.report import report

        report(folder, args.work)


if __name__ == "__main__":
    main()
