"""Agreement: how often do the top-ranked examples share the query's source, label, or any other class?

    share(q) = |{i in top k of q : class_i = class_q}| / k

A cheap stand-in for truth where classes are known: an example that taught the model a sentence is likely, not certain, to
come from its source; one that made it predict a class is likely of that class (the "identical class" and, with finer classes that
the model was not told, the "identical subclass" test of Hanawa et al. 2021, section 4.2). Intervals: 95%, bootstrap over
queries; differences of the first result to the others query by query.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np

from assay.errors import MethodError
from assay.evaluate.intervals import one_way
from assay.evaluate.metrics.comparison import by_method
from assay.evaluate.one_step import best_rows, check_ranked, check_scored
from assay.examples import Examples
from assay.scores import Scores

Classes = Literal["source", "label"] | tuple[Sequence[Any], Sequence[Any]]
"""The examples' own, or one for each training example and each query (None: not known)."""


def agreement(
    train: Examples, queries: Examples, results: Sequence[Scores], k: int = 10, seed: int = 0, by: Classes = "source"
) -> dict[str, Any]:
    """Evidence: mean share of the top k of the query's class, for each result, and the share expected by chance.

    Queries without a class are left out. Where a top-k result holds fewer than k examples above zero, the rest count
    as of another class. Returns `{"k", "unit", "rows": [{"set", "mean", "low", "high", "n"}, ...], "against": [...], "chance",
    "text"}`; `against` holds the first result less each other one, and `better`, the share of resamples above 0.

    Raises MethodError if no query has a class, for classes of another number, or for scores of other examples.
    """
    check_ranked(k, len(train))
    name, theirs, own = _classes(train, queries, by)
    known = [q for q, found in enumerate(theirs) if found is not None]
    if not known:
        raise MethodError(f"Agreement compares {name}s, and no query has one; add a field '{name}' to the queries.")
    shares: dict[str, np.ndarray] = {}
    for title, result in by_method(results).items():
        check_scored(result, train, queries)
        best = best_rows(result, k)
        shares[f"{title} top {k}"] = np.array([sum(own[row] == theirs[q] for row in best[q]) / k for q in known])
    first, mine = next(iter(shares.items()))
    rows = [one_way(values, seed).row(title) for title, values in shares.items()]
    count = Counter(own)
    chance = sum(count[theirs[q]] for q in known) / (len(known) * len(train))
    rows.append({"set": "chance", "mean": chance, "low": chance, "high": chance, "n": len(known)})
    differences = {title: one_way(mine - values, seed) for title, values in shares.items() if title != first}
    text = "; ".join(f"{row['set']}: {row['mean']:.0%}" for row in rows)
    return {
        "k": k,
        "unit": f"share of the top with the query's {name}",
        "rows": rows,
        "against": [
            found.row(f"{first} less {title}") | {"better": found.above} for title, found in differences.items()
        ],
        "chance": chance,
        "text": f"{text}.",
    }


def _classes(train: Examples, queries: Examples, by: Classes) -> tuple[str, list[Any], list[Any]]:
    """What they are called, those of the queries and those of the training examples."""
    match by:
        case "source":
            return "source", list(queries.sources), list(train.sources)
        case "label":
            return "label", [_plain(x) for x in queries.labels], [_plain(x) for x in train.labels]
        case (own, theirs):
            if (len(own), len(theirs)) != (len(train), len(queries)):
                raise MethodError(
                    f"Classes of {len(own)} training examples and {len(theirs)} queries were given for {len(train)} and "
                    f"{len(queries)}; give one each."
                )
            return "class", [_plain(x) for x in theirs], [_plain(x) for x in own]
        case _:
            raise MethodError(f"by is {by!r}; 'source', 'label', or classes of the training examples and the queries.")


def _plain(label: Any) -> Any:
    """Something that can be compared and counted: lists of labels as tuples, numbers of arrays as Python's."""
    if isinstance(label, np.generic | np.ndarray) or hasattr(label, "tolist"):
        label = cast(Any, label).tolist()
    return tuple(cast(list[Any], label)) if isinstance(label, list) else label
