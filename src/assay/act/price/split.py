"""A budget split among offers by the Shapley value of their rows, in closed form.

The game: a set of providers is worth the sum of the values of the distinct rows that its members hold,

    v(S) = sum over rows d held by somebody in S of  value_d.

Its Shapley value gives each row's value to its holders in equal parts: of the holders of a row, the first in a random order alone adds
it (Shapley 1953; for values without shared rows it is each provider's own total). It is linear in the rows, so no coalition is looked
at. Prices are the budget in proportion to what is left when totals below zero are cut off:

    price_p = budget * max(phi_p, 0) / sum of max(phi, 0).

Intervals: 10,000 draws of the totals, normal with the offers' standard deviations and independent, seeded; 95%.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64

from assay.act.price.offer import Offer, Z, deviation
from assay.errors import InputError

DRAWS = 10_000


@dataclass(frozen=True, eq=False)
class Split:
    """Providers, best first, in `frame`: columns provider, rows, counted, shared (rows that others hold too), out_of_domain,
    mean, total (the Shapley value) with low and high, first (probability to have the highest total), price with price_low and
    price_high. `notes`: what there is to tell.
    """

    frame: pd.DataFrame
    budget: float
    scorer: str
    notes: tuple[str, ...]

    @property
    def prices(self) -> dict[str, float]:
        """By provider."""
        return dict(zip(self.frame["provider"], self.frame["price"], strict=True))


def split(offers: Sequence[Offer], budget: float, seed: int = 0) -> Split:
    """Rank offers and split a budget among them.

    Raises InputError: no offer, a budget that is not above zero, two offers of one name, or offers made with different scorers.
    """
    _check(offers, budget)
    held = [_holding(offer) for offer in offers]
    total = shares_of_distinct(held)
    holders = _holders(held)
    sd = np.array([_deviation(offer, rows, holders) for offer, rows in zip(offers, held, strict=True)])
    drawn = total + sd * np.random.default_rng(seed).normal(size=(DRAWS, len(offers)))
    prices = np.sort(budget * _proportions(drawn), axis=0)
    low, high = prices[round(0.025 * DRAWS)], prices[round(0.975 * DRAWS) - 1]
    first = np.bincount(drawn.argmax(1), minlength=len(offers)) / DRAWS
    frame = pd.DataFrame(
        {
            "provider": [offer.provider for offer in offers],
            "rows": [len(offer) for offer in offers],
            "counted": [len(rows) for rows in held],
            "shared": [sum(holders[digest] > 1 for digest in rows) for rows in held],
            "out_of_domain": [float((~offer.predicted.in_domain).mean()) for offer in offers],
            "mean": total / np.maximum([len(rows) for rows in held], 1),
            "total": total,
            "low": total - Z * sd,
            "high": total + Z * sd,
            "first": first,
            "price": budget * _proportions(total[None])[0],
            "price_low": low,
            "price_high": high,
        }
    )
    order = np.argsort(-total, kind="stable")
    return Split(frame.iloc[order].reset_index(drop=True), budget, offers[0].scorer, tuple(_notes(offers, frame)))


def shares_of_distinct(held: Sequence[Mapping[str, float]]) -> Float64[np.ndarray, " p"]:
    """Shapley values of `v(S) = sum of the values of the distinct rows in S`; of a row valued twice, the mean counts."""
    values: dict[str, list[float]] = {}
    for rows in held:
        for digest, value in rows.items():
            values.setdefault(digest, []).append(value)
    part = {digest: float(np.mean(found)) / len(found) for digest, found in values.items()}
    return np.array([sum(part[digest] for digest in rows) for rows in held], dtype=np.float64)


def _holding(offer: Offer) -> dict[str, float]:
    """The counted rows of an offer, by digest."""
    places = np.flatnonzero(offer.counted).tolist()
    return {offer.digests[k]: float(offer.predicted.value[k]) for k in places}


def _holders(held: Sequence[Mapping[str, float]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for rows in held:
        for digest in rows:
            counts[digest] = counts.get(digest, 0) + 1
    return counts


def _deviation(offer: Offer, rows: Mapping[str, float], holders: Mapping[str, int]) -> float:
    """Standard deviation of a provider's total, of which shared rows are a part only."""
    parts = np.array([1 / holders[digest] for digest in rows])
    return deviation(offer.predicted.stderr[offer.counted] * parts, float(parts.sum()), offer.shift)


def _proportions(totals: Float64[np.ndarray, "draws p"]) -> Float64[np.ndarray, "draws p"]:
    """Shares of the positive totals; nobody gets anything where there is none."""
    positive = np.maximum(totals, 0.0)
    whole = positive.sum(1, keepdims=True)
    return np.divide(positive, whole, out=np.zeros_like(positive), where=whole > 0)


def _check(offers: Sequence[Offer], budget: float) -> None:
    if not offers:
        raise InputError("No offer was given; name the directories that providers handed over.")
    if not 0 < budget < float("inf"):
        raise InputError(f"A budget of {budget} was given; expected an amount above zero.")
    names = [offer.provider for offer in offers]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"Two offers are by '{twice}'; one of each provider was expected. Leave one out.")
    if len({offer.scorer for offer in offers}) > 1:
        raise InputError(
            "The offers were made with different scorers, so their values cannot be compared. Ask the providers to use one."
        )


def _notes(offers: Sequence[Offer], frame: Any) -> list[str]:
    notes = [f"Scorer: {offers[0].about['scorer']}."] if offers[0].about.get("scorer") else []
    if (frame["total"] <= 0).any():
        names = ", ".join(frame.loc[frame["total"] <= 0, "provider"])
        notes.append(f"Not worth a price, as training on it would not lower the targets' loss: {names}.")
    if frame["shared"].any():
        notes.append("Rows that several offers hold are paid once, in equal parts.")
    strange = [offer.provider for offer in offers if (~offer.predicted.in_domain).mean() > 0.1]
    if strange:
        notes.append(
            f"More than a tenth of the rows is unlike what the scorer was fitted to, and not paid: {', '.join(strange)}."
        )
    if offers[0].shift is None:
        notes.append(
            "The scorer's sample had no sources, so intervals leave out that it may be off for a provider as a whole."
        )
    return notes
