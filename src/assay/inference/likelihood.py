"""What a language model is asked, and what it answers: the log-likelihood of the end of a text."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64


@dataclass(frozen=True)
class Tokens:
    """A text as the model's tokens, and which of them are counted."""

    ids: tuple[int, ...]
    counted: tuple[bool, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def count(self) -> int:
        """How many are counted."""
        return sum(self.counted)


@dataclass(frozen=True)
class Request:
    """A prompt, as text or as tokens, and what of it is counted: so many characters at its end, or these tokens."""

    prompt: str | tuple[int, ...]
    counted: int | tuple[bool, ...]

    @staticmethod
    def of(context: tuple[int, ...], tokens: Tokens) -> "Request":
        """Tokens behind others that are not counted."""
        return Request(context + tokens.ids, (False,) * len(context) + tokens.counted)


@dataclass(frozen=True)
class Likelihood:
    """`values`: the log-probability of each counted token, in nats, in their order. `lead`: characters at the start of a
    prompt that have none, because nothing stands before them. `first`: whether the token was the likeliest there (one of the
    likeliest, of equals); None where a server does not tell.
    """

    values: tuple[float, ...]
    lead: int = 0
    first: tuple[bool, ...] | None = None

    @staticmethod
    def of(values: Float64[np.ndarray, " n"], first: Bool[np.ndarray, " n"]) -> "Likelihood":
        """From arrays."""
        return Likelihood(tuple(map(float, values)), first=tuple(map(bool, first)))

    @property
    def count(self) -> int:
        """Of tokens."""
        return len(self.values)

    @property
    def total(self) -> float:
        """Nats."""
        return math.fsum(self.values)

    @property
    def mean(self) -> float:
        """Nats a token."""
        return self.total / self.count
