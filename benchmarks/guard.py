"""Permissive labels on planted cases: how many labels improve, and is a document that an output needed ever left out?

    python -m benchmarks.guard [--cases 1000] [--data DIR] [--trained 50]

A case: six documents, one fact each; the question asks for one (planted), the output is that fact. Labels are sources (the
powerset) in even cases, a chain of four in odd ones. In every fifth case a second document, with another label, says the same,
and in every tenth the question asks for what no document has. A label is falsely declassified if the documents it allows
do not hold the fact; its answer is another if what is written from them does not begin with the fact's first word. Lambda is
calibrated on 50 other cases, drawn with other seeds.

The 1,000 cases go through a model without weights that expects what followed its last two tokens before; `--trained` cases,
with `--data`, through stories15m: four documents, each the second sentence of a story of TinyStories; the question is one of
them but for its last two words, and the output these. It copies from its context imperfectly: a case is one where the model's
answer begins with the right word given all documents and given the needed one alone, and with another word given any set of
the others, none at all included, so that the output does need the document; other draws are counted and left out. The
introspection baseline asks stories15m which documents it used.
"""

import itertools
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tests.act.guard.support import WORDS, induction_model

from benchmarks.common import add_data, parser, save

CHAIN = ("public", "internal", "secret", "hidden")
TEMPLATE = "{document} "
FRESH = 500_000
"""First seed of the scored cases of stories15m: others than those on which an earlier rule of `answered` was seen to be too weak."""


def symbols(seed: int, count: int = 6) -> dict[str, Any]:
    """Facts over words that mean nothing."""
    draw = random.Random(seed)
    words = draw.sample(WORDS, 2 * count)
    facts = [(f"{words[2 * k]} is", f" {words[2 * k + 1]} .") for k in range(count)]
    return planted(draw, seed, facts, [start + end for start, end in facts], ("w0 ?", " ? ?"))


def sentences(folder: Path) -> Callable[[int], dict[str, Any]]:
    """Second sentences of stories: the question is one without its last two words, which are the output."""
    stories = (folder / "data/tinystories/tinystories_sample.txt").read_text("utf-8").split("<|endoftext|>")
    parts = [re.split(r"(?<=[.!?])\s", story.strip()) for story in stories[:-1]]
    known = [second for second in dict.fromkeys(p[1] for p in parts if len(p) > 2) if 50 < len(second) < 100]

    def make(seed: int) -> dict[str, Any]:
        draw = random.Random(seed)
        chosen = draw.sample(known, 4)
        ends = [" " + " ".join(text.split(" ")[-2:]) for text in chosen]
        facts = [(text.removesuffix(end), end) for text, end in zip(chosen, ends, strict=True)]
        return planted(draw, seed, facts, chosen, ("", ""), missing=False)

    return make


def planted(
    draw: random.Random, seed: int, facts: list[Any], texts: list[str], nothing: Any, missing: bool = True
) -> dict[str, Any]:
    """One case: documents (`texts`, in which the facts stand), question, those that hold the answer, and the lattice."""
    chain = seed % 2 == 1
    labels = [draw.choice(CHAIN) if chain else f"source{k}" for k in range(len(facts))]
    needed = draw.randrange(len(facts))
    holding = {needed}
    if seed % 5 == 0:
        twin = draw.choice([k for k in range(len(facts)) if k != needed])
        texts = [texts[needed] if k == twin else text for k, text in enumerate(texts)]
        holding.add(twin)
    question = facts[needed]
    if missing and seed % 10 == 9:
        question, holding = nothing, set()
    return {
        "documents": [{"text": text, "label": label, "id": str(k)} for k, (text, label) in enumerate(zip(texts, labels, strict=True))],
        "query": {"prompt": question[0], "completion": question[1]},
        "holding": {str(k) for k in holding}, "needed": needed,
        "lattice": " < ".join(CHAIN) if chain else "powerset",
    }  # fmt: skip


def calibrated(model: Any, make: Any, cases: int) -> float:
    """Lambda on cases of their own, with a planted fact that stands once."""
    from assay.act.guard import calibrate, drops

    drawn = (make(seed) for seed in itertools.count(100_001) if seed % 5 and seed % 10 != 9)
    kept = list(itertools.islice((case for case in drawn if answered(model, case)), cases))
    found = drops(
        model,
        [c["documents"] for c in kept],
        [c["query"] for c in kept],
        [c["needed"] for c in kept],
        template=TEMPLATE,
    )
    return calibrate(found)


def answered(model: Any, case: dict[str, Any]) -> bool:
    """Whether the model begins with the planted answer given all documents and the needed one alone, and given no set of the others."""
    from assay.act.guard.scorers import AskedLocal, Prompt

    if not case["holding"]:
        return True
    texts, every = tuple(document["text"] for document in case["documents"]), tuple(range(len(case["documents"])))
    scorer = Prompt(AskedLocal(model), texts, case["query"]["prompt"], TEMPLATE)
    others = [k for k in every if str(k) not in case["holding"]]
    without = (kept for size in range(len(others), -1, -1) for kept in itertools.combinations(others, size))
    wanted = case["query"]["completion"].split()[:1]

    def begins(kept: tuple[int, ...]) -> bool:
        return scorer.generate(kept, 3).split()[:1] == wanted

    return begins(every) and begins((case["needed"],)) and not any(map(begins, without))


def trial(model: Any, make: Any, cases: int, lam: float, first: int = 0, **settings: Any) -> dict[str, Any]:
    """So many cases by `assay.guard`, from a seed on."""
    import assay

    counts: dict[str, float] = dict.fromkeys(
        ("cases", "unanswered", "could", "improved", "false", "another", "visited", "exact"), 0
    )
    asked = {"improved": 0, "false": 0}
    start = time.process_time()
    for seed in itertools.count(first):
        if counts["cases"] == cases:
            break
        case = make(seed)
        if not answered(model, case):
            counts["unanswered"] += 1
            continue
        given = dict(lattice=case["lattice"], lam=lam, tokens=4, template=TEMPLATE, **settings)
        (verdict,) = assay.guard(model, case["documents"], [case["query"]], **given).verdicts
        labels = {document["id"]: document["label"] for document in case["documents"]}
        best = smallest(case, labels)  # any of these would do
        counts["cases"] += 1
        counts["could"] += verdict.conservative not in best
        counts["improved"] += verdict.improved
        counts["exact"] += verdict.label in best
        counts["visited"] += verdict.visited
        counts["false"] += bool(case["holding"]) and not case["holding"] & {
            d.rpartition(":")[2] for d in verdict.documents
        }
        wanted = case["query"]["completion"].split()[:1]
        counts["another"] += bool(case["holding"]) and verdict.output.split()[:1] != wanted
        if verdict.introspected is not None:
            asked["improved"] += verdict.introspected != verdict.conservative
            asked["false"] += not any(allows(case["lattice"], verdict.introspected, labels[d]) for d in case["holding"])
    found = {**counts, "lambda": lam, "cpu_seconds_a_case": (time.process_time() - start) / max(1, counts["cases"])}
    return found | ({"introspection": asked} if settings.get("introspect") else {})


def smallest(case: dict[str, Any], labels: dict[str, str]) -> set[str]:
    """The smallest labels that would do, by construction: of two documents that hold the fact either."""
    chain = case["lattice"] != "powerset"
    if not case["holding"]:
        return {CHAIN[0] if chain else "{}"}
    if chain:
        return {min((labels[d] for d in case["holding"]), key=CHAIN.index)}
    return {f"{{{labels[d]}}}" for d in case["holding"]}


def allows(lattice: str, shown: str, label: str) -> bool:
    """Whether a label, as it is shown, is at least another."""
    if lattice == "powerset":
        return label in shown.strip("{}").split(", ")
    return CHAIN.index(label) <= CHAIN.index(shown)


def main() -> None:
    arguments = parser(__doc__)
    add_data(arguments)
    arguments.add_argument("--cases", type=int, default=1000)
    arguments.add_argument("--trained", type=int, default=50)
    args = arguments.parse_args()
    torch.set_num_threads(1)
    reader = induction_model()
    lam = calibrated(reader, symbols, 50)
    result: dict[str, Any] = {"reader": trial(reader, symbols, args.cases, lam)}
    if args.data is not None and args.trained:
        import assay

        model = assay.load(Path(args.data) / "models" / "stories15m")
        make = sentences(Path(args.data))
        found = calibrated(model, make, 30)
        result["stories15m"] = trial(model, make, args.trained, found, FRESH, introspect=True)
    save("guard", f"python -m benchmarks.guard --data DIR --cases {args.cases} --trained {args.trained}", result)


if __name__ == "__main__":
    main()
