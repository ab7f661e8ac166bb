"""The check of a split: Shapley values of providers by training again on coalitions of their data, after they were delivered.

    U(S) = - mean loss of the targets after the recipe has trained on the counted rows of the providers in S

Up to 15 providers every coalition is trained, beyond that they are sampled (assay.methods.Shapley). Unlike the split it knows that the
rows of different providers may teach the same thing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from assay.act.price.offer import Offer, differences, digest_of, fingerprint_of
from assay.act.price.split import Split
from assay.errors import InputError
from assay.examples import Examples, read
from assay.methods.retrain.shapley import Shapley
from assay.methods.student.scorer import Scorer
from assay.training import Recipe


@dataclass(frozen=True, eq=False)
class Checked:
    """`frame`: provider, total and price of the split, retrained (Shapley value in nats of mean target loss), stderr where
    coalitions were sampled, and the price it comes to. `agreement`: Pearson correlation of the two shares.
    """

    frame: pd.DataFrame
    agreement: float
    notes: tuple[str, ...]


def delivered(offers: Sequence[Offer], scorer: Scorer, data: Sequence[Examples]) -> list[Examples]:
    """The data of each offer, found by what they hold, and scored again.

    Raises InputError for data that are missing, or not what was offered.
    """
    checksum = offers[0].scorer
    found = {fingerprint_of([digest_of(text, checksum) for text in examples.texts]): examples for examples in data}
    missing = [offer.provider for offer in offers if offer.data["fingerprint"] not in found]
    if missing:
        raise InputError(
            f"None of the {len(data)} data sets given is what {', '.join(missing)} offered (by fingerprint); name each file with "
            "--data, as it was valued."
        )
    rows = [found[offer.data["fingerprint"]] for offer in offers]
    for offer, examples in zip(offers, rows, strict=True):
        if wrong := differences(offer, scorer, examples):
            raise InputError(
                f"{wrong:,} of {len(offer):,} rows that {offer.provider} delivered have another value or digest than the offer "
                "states. Do not pay for it as it is."
            )
    return rows


def check(
    found: Split,
    offers: Sequence[Offer],
    data: Sequence[Examples],
    recipe: Recipe,
    on: Examples,
    cache: str | None = None,
) -> Checked:
    """Train again on coalitions of the offers' counted rows; `data` are those of each offer, in their order. `cache`: a
    directory that keeps every training, from which an interrupted check goes on.
    """
    rows: list[dict[str, Any]] = []
    for offer, examples in zip(offers, data, strict=True):
        counted = examples.select(offer.counted)
        rows += [{**example.data, "id": f"{offer.provider}:{k}"} for k, example in enumerate(counted, start=1)]
    players = tuple(name for offer in offers for name in [offer.provider] * int(offer.counted.sum()))
    values = Shapley(by=players, cache=cache).value(recipe, read(rows), on)
    place = {name: k for k, name in enumerate(values.ids)}
    order = [place[name] for name in found.frame["provider"]]
    retrained = values.array[order]
    positive = np.maximum(retrained, 0.0)
    prices = found.budget * positive / positive.sum() if positive.any() else positive
    frame = found.frame[["provider", "total", "price"]].assign(retrained=retrained)
    if values.stderr is not None:
        frame["stderr"] = values.stderr[order]
    totals = frame["total"].to_numpy(dtype=float)
    varied = len(frame) > 1 and np.ptp(totals) > 0 and np.ptp(retrained) > 0
    agreement = float(np.corrcoef(totals, retrained)[0, 1]) if varied else float("nan")
    return Checked(frame.assign(retrained_price=prices), agreement, values.provenance.notes)
