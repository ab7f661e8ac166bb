"""Infra's difficulty flip: does the mixture that influence chooses beat the one that is there, at the same number of examples?

    python -m benchmarks.infra [--seeds 5] [--first-seed 0] [--epochs 12] [--lr 3e-3]

Two domains, each graded from 1 to 4: arithmetic (`7+4+9=` 0, sums of 2 to 5 digits modulo 10) and brackets (`([{<` `>}])`, programs of
2 to 5 opening brackets to be closed). The pool has mostly easy arithmetic and mostly hard brackets. For each seed a small Llama is
trained on the pool; held-out problems that it answers right (`assay.evaluate.solved`) are what influence is on; `assay.act.reweight.flip`
says which domains to flip. Then models are trained anew, from one initialisation and for equally many examples, on the pool as it is, on
the flip that influence chooses, on both flipped, and on a fair coin's choice for each domain. Accuracy and loss on test problems, all
levels alike. Writes `benchmarks/results/infra.json`.
"""

import sys
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from benchmarks.common import parser, save

SIGNS = "0123456789+=([{<>}])~"
PAIRS = dict(zip("([{<", ")]}>", strict=True))
COUNTS = {"arithmetic": (320, 160, 80, 40), "brackets": (40, 80, 160, 320)}


def problem(domain: str, level: int, rng: np.random.Generator) -> dict[str, Any]:
    """One problem with its answer."""
    if domain == "arithmetic":
        digits = rng.integers(0, 10, level + 1).tolist()
        prompt, answer = "+".join(map(str, digits)) + "=", str(sum(digits) % 10)
    else:
        opened = "".join(rng.choice(list(PAIRS), level + 1))
        prompt, answer = opened + "=", "".join(PAIRS[sign] for sign in reversed(opened))
    return {"prompt": prompt, "completion": answer + "~", "source": domain, "label": level}


def problems(counts: dict[str, tuple[int, ...]], rng: np.random.Generator) -> list[dict[str, Any]]:
    """So many of each level, shuffled."""
    found = [
        problem(domain, level + 1, rng)
        for domain, some in counts.items()
        for level, n in enumerate(some)
        for _ in range(n)
    ]
    return [found[k] for k in rng.permutation(len(found))]


def task() -> Any:
    """A character a token."""
    import assay

    names = ["<pad>", "<s>", *SIGNS]
    characters = Tokenizer(models.WordLevel({name: k for k, name in enumerate(names)}, unk_token="<pad>"))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=characters, pad_token="<pad>", bos_token="<s>", eos_token="~"
    )
    return assay.tasks.CausalLM(tokenizer, 32)


def model() -> torch.nn.Module:
    """Two layers, 64 wide."""
    config = transformers.LlamaConfig(
        vocab_size=2 + len(SIGNS), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=32, pad_token_id=0, bos_token_id=1, eos_token_id=2 + SIGNS.index("~"),
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def is_answer(text: str, asked: Any) -> bool:
    """Whether the model wrote it; its tokens are decoded with spaces between them."""
    return text.replace(" ", "") + "~" == asked.data["completion"]


def measured(run: Any, test: Any) -> dict[str, float]:
    """Share of test problems whose whole answer is the likeliest, token by token; and the mean loss. By domain too."""
    task_, module = run.model.task, run.model.module
    right = np.zeros(len(test))
    with torch.no_grad():
        for start in range(0, len(test), 200):
            batch = task_.collate([task_.encode(test[k]) for k in range(start, min(start + 200, len(test)))])
            labels = batch.tensors["labels"][:, 1:]
            guessed = module(input_ids=batch.tensors["input_ids"]).logits[:, :-1].argmax(-1)
            right[start : start + 200] = ((guessed == labels) | (labels < 0)).all(1).numpy()
    domains = np.array(list(test.sources))
    return {
        "accuracy": float(right.mean()), "loss": float(run.loss_of(test).mean()),
        **{domain: float(right[domains == domain].mean()) for domain in COUNTS},
    }  # fmt: skip


def once(args: Any, seed: int) -> dict[str, Any]:
    import assay
    from assay.act.reweight import flip, grade

    rng = np.random.default_rng((seed, 16))
    pool = assay.read(problems(COUNTS, rng))
    asked, test = (assay.read(problems(dict.fromkeys(COUNTS, (n,) * 4), rng)) for n in (args.asked // 4, 100))
    recipe = assay.Recipe(
        model, task(), lr=args.lr, epochs=args.epochs, batch_size=32, seed=seed, schedule="cosine", reduction="mean"
    )
    first = recipe.train(pool)
    solved = assay.evaluate.solved(first.model, asked, is_answer, 8)
    on = asked.select(np.flatnonzero(solved))
    found = assay.evaluate.reasoning(first.model, pool, on, rows=40)
    graded = grade(pool)
    chosen, both = flip(graded, found.values.array), flip(graded)
    coin = flip(
        graded, np.where([rng.random() < 0.5 for _ in COUNTS], 1.0, -1.0)[_number(graded.domains)] * _slope(graded)
    )
    mixtures = {"as it is": np.arange(len(pool)), "influence": chosen.draw(seed), "both flipped": both.draw(seed),
                "coin": coin.draw(seed)}  # fmt: skip
    results = {name: measured(recipe.train(_repeated(pool, rows)), test) for name, rows in mixtures.items()}
    print(f"seed {seed}: solved {solved.mean():.2f}, flipped {list(chosen.flipped)}, coin {list(coin.flipped)}: "
          f"{ {name: round(row['accuracy'], 3) for name, row in results.items()} }", file=sys.stderr, flush=True)  # fmt: skip
    return {
        "seed": seed, "solved": float(solved.mean()), "flipped": list(chosen.flipped), "coin": list(coin.flipped),
        "results": results, "levels": found.levels.to_dict("records"), "seconds": found.values.provenance.seconds,
        "examples": len(pool),
    }  # fmt: skip


def _number(domains: Any) -> np.ndarray:
    return np.array([list(COUNTS).index(domain) for domain in domains])


def _slope(graded: Any) -> np.ndarray:
    """Values under which a flip helps: high in the bins that have few examples."""
    values = np.zeros(len(graded.domains))
    for domain in graded.names():
        rows = graded.rows(domain)
        counts = np.bincount(graded.bins[rows])
        values[rows] = -counts[graded.bins[rows]]
    return values


def _repeated(pool: Any, rows: np.ndarray) -> Any:
    """The examples at these positions, each under an id of its own."""
    import assay

    fields = [(pool[int(k)].data, pool.sources[int(k)], pool.labels[int(k)]) for k in rows]
    return assay.read([{**data, "source": source, "label": label} for data, source, label in fields])


def main() -> None:
    from assay.evaluate.intervals import one_way

    arguments = parser(__doc__)
    for name, default in (("seeds", 5), ("first-seed", 0), ("epochs", 12), ("asked", 160)):
        arguments.add_argument(f"--{name}", type=int, default=default)
    arguments.add_argument("--lr", type=float, default=3e-3)
    args = arguments.parse_args()
    runs = [once(args, seed) for seed in range(args.first_seed, args.first_seed + args.seeds)]
    names = list(runs[0]["results"])
    rows = []
    for name in names:
        for measure in ("accuracy", "loss"):
            values = np.array([run["results"][name][measure] for run in runs])
            less = one_way(values - np.array([run["results"]["as it is"][measure] for run in runs]))
            rows.append({
                "mixture": name, "measure": measure, "mean": float(values.mean()), "above": less.mean, "low": less.low,
                "high": less.high,
            })  # fmt: skip
    command = f"python -m benchmarks.infra --seeds {args.seeds} --epochs {args.epochs} --lr {args.lr}"
    save("infra", command, {"rows": rows, "runs": runs})


if __name__ == "__main__":
    main()
