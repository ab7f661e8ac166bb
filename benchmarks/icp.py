"""In-context probing against influence on the same pool: do they rank alike, what does each selection teach, what does it cost?

    python -m benchmarks.icp --data DIR [--rows 40] [--queries 16] [--seeds 3]

stories15m; a pool of five domains (stories, plays, arithmetic, programs, tweets), `--rows` of each; the target is held-out
plays, as prompt and completion. ICP's values and mean gains are compared with the mean over the target of GradDot (LinFiK's plain
product) and of EK-FAC (MLPs of the last two layers): Spearman over the pool, and within the domains. Each method's best fifth, and random
fifths, fine-tune the model (its embeddings frozen) by one recipe, chosen on nothing; the loss is that of other held-out plays. Times are
CPU seconds; the whole prompts that ICP saves are timed on a few rows.
"""

import copy
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks.common import add_data, data_folder, parser, save

TOKENS, SHARE = 96, 0.2
CURVED = ("*.layers.4.mlp.*", "*.layers.5.mlp.*")


def texts_of(folder: Path) -> dict[str, list[str]]:
    """Domains as lists of texts, in the files' order."""
    data = folder / "data"
    stories = (data / "tinystories/tinystories_sample.txt").read_text("utf-8").split("<|endoftext|>")
    plays = (data / "tinyshakespeare/input.txt").read_text("utf-8")
    lines = lambda file: [json.loads(line) for line in (data / file).read_text("utf-8").splitlines()]  # noqa: E731
    return {
        "stories": [story.strip() for story in stories[:-1] if len(story) > 300],
        "plays": [plays[k : k + 320] for k in range(0, len(plays) - 320, 320)],
        "arithmetic": [f"{row['question']}\n{row['answer']}" for row in lines("gsm8k/train.jsonl")],
        "programs": [f"{row['text']}\n{row['code']}" for row in lines("mbpp/mbpp.jsonl")],
        "tweets": (data / "irony/train_text.txt").read_text("utf-8").splitlines(),
    }


def halves(texts: list[str]) -> list[dict[str, str]]:
    """Prompt and completion: the first and the second 140 characters, split at a space."""
    rows = []
    for text in texts:
        middle = text.find(" ", 120)
        rows.append({"prompt": text[:middle], "completion": text[middle:280]})
    return rows


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    found = action()
    return found, time.process_time() - start


def fine_tuned(model: Any, rows: list[dict[str, Any]], held: Any, seed: int) -> float:
    """Mean loss of the held-out texts after three epochs on the rows."""
    import assay
    from assay.tasks import Loss

    module = copy.deepcopy(
        model.module
    )  # Adam would move the embeddings of tokens that no row has as far as all others
    module.get_input_embeddings().requires_grad_(False)
    recipe = assay.Recipe(module, model.task, optimizer="adamw", lr=1e-4, epochs=3, batch_size=4, seed=seed)
    trained = recipe.train(rows).model
    items = [trained.task.encode(example) for example in assay.read(held)]
    with torch.no_grad():
        losses = [
            trained.task.measure(trained.module, trained.task.collate(items[k : k + 8]), Loss("mean"))
            for k in range(0, len(items), 8)
        ]
    return float(torch.cat(losses).mean())


def main() -> None:
    arguments = parser(__doc__)
    add_data(arguments)
    for name, default in (("rows", 40), ("queries", 16), ("seeds", 3)):
        arguments.add_argument(f"--{name}", type=int, default=default)
    args = arguments.parse_args()
    import assay
    from assay.methods import EKFAC, ICP

    torch.set_num_threads(1)  # threads that wait for each other burn the CPU seconds that are counted
    folder, n, q = data_folder(args), args.rows, args.queries
    domains = texts_of(folder)
    pool = [{"text": text, "source": name} for name, texts in domains.items() for text in texts[:n]]
    target, held = halves(domains["plays"][n : n + q]), halves(domains["plays"][n + q : n + 3 * q])
    model = assay.load(folder / "models" / "stories15m", max_length=256)
    short = assay.load(folder / "models" / "stories15m", max_length=TOKENS)  # examples of ICP and of training alike
    pool = [{**row, "text": cut_to(short, row["text"])} for row in pool]

    result: dict[str, Any] = {"pool": len(pool), "queries": q}
    command = f"python -m benchmarks.icp --data DIR --rows {n} --queries {q} --seeds {args.seeds}"
    values, seconds = timed(lambda: assay.value(model, pool, target, ICP()))
    found = {
        "icp": (values.array + 1e-9 * values.raw["gain"], seconds),  # ties of the count by the gain
        "icp gain": (values.raw["gain"], 0.0),
    }
    result |= whole_prompts(model, pool, target, values)
    for name, method in (
        ("bm25", assay.methods.BM25()),
        ("graddot", assay.methods.GradDot()),
        ("ekfac", EKFAC(fitting_examples=min(200, len(pool)))),
    ):
        asked = assay.load(folder / "models" / "stories15m", modules=CURVED) if name == "ekfac" else model
        array, took = timed(lambda asked=asked, method=method: assay.value(asked, pool, target, method).array)
        found[name] = array, took
        print(f"{name}: {took:.1f} s", file=sys.stderr, flush=True)
    sources = np.array([row["source"] for row in pool])
    result["agreement"] = {
        f"{name}, {other}": agreement(found[name][0], found[other][0], sources)
        for name in ("icp", "icp gain", "bm25")
        for other in ("graddot", "ekfac")
    }
    result["cpu_seconds_an_example"] = {name: took / len(pool) for name, (_, took) in found.items() if took}
    result["notes"] = list(values.provenance.notes)
    chosen = max(1, int(SHARE * len(pool)))
    best = {name: np.argsort(-array, kind="stable")[:chosen] for name, (array, _) in found.items()}
    result["plays_among_chosen"] = {name: float(np.mean(sources[rows] == "plays")) for name, rows in best.items()}
    result["losses"] = {"nothing": [held_out(model, held)]}
    save("icp", command, result)
    for seed in range(args.seeds):
        draw = np.random.default_rng(seed).permutation(len(pool))[:chosen]
        for name, rows in {"random": draw, **best}.items():
            loss = fine_tuned(short, [pool[k] for k in rows], held, seed)
            result["losses"].setdefault(name, []).append(loss)
            print(f"{name}: {loss:.3f}", file=sys.stderr, flush=True)
    save("icp", command, result)


def whole_prompts(model: Any, pool: list[dict[str, str]], target: Any, values: Any) -> dict[str, float]:
    """What whole prompts cost, and how far their gains are from those behind kept keys and values: a few examples."""
    from assay.examples import read
    from assay.inference import Local
    from assay.methods.inference.prompts import TokenPrompts

    asked, some = Local(model, reuse=False), list(range(0, len(pool), max(1, len(pool) // 8)))
    prompts = TokenPrompts.of(asked.task, "{example}\n\n", read(target))
    counts = np.array([tokens.count for tokens in prompts.alone])
    alone, rows = asked.likelihoods((), prompts.alone), read(pool)

    def gains() -> list[float]:
        contexts = [prompts.context(rows[k])[0] for k in some]
        return [float(((asked.likelihoods(c, prompts.continued) - alone) / counts).mean()) for c in contexts]

    found, seconds = timed(gains)
    apart = float(np.abs(np.array(found) - values.raw["gain"][some]).max())
    return {"whole_prompts_cpu_seconds_an_example": seconds / len(some), "kept_against_whole": apart}


def agreement(one: Any, other: Any, sources: Any) -> dict[str, float]:
    """Rank correlation over the pool, and the mean of those within a domain."""
    inside = [spearmanr(one[sources == s], other[sources == s])[0] for s in np.unique(sources)]
    return {"spearman": float(spearmanr(one, other)[0]), "within_domains": float(np.mean(inside))}


def cut_to(model: Any, text: str) -> str:
    """The text's first tokens, as many as an example may have."""
    ids = model.task.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][: TOKENS - 1]
    return model.task.tokenizer.decode(ids)


def held_out(model: Any, held: Any) -> float:
    """The held-out loss as it is."""
    import assay
    from assay.tasks import Loss

    items = [model.task.encode(example) for example in assay.read(held)]
    with torch.no_grad():
        return float(model.task.measure(model.module, model.task.collate(items), Loss("mean")).mean())


if __name__ == "__main__":
    main()
