"""A text as the model reads it: tokens, each with the piece of text that it stands for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Token:
    """A token of an example: the piece of text that it stands for (with the white space in front of it), where that ends
    and begins, and whether it is predicted. A token that stands for no text, such as `<s>`, begins where it ends.
    """

    text: str
    start: int
    end: int
    counted: bool


@dataclass(frozen=True)
class Encoded:
    """A text as tokens: for each its id, the characters it stands for, and whether it counts."""

    text: str
    ids: list[int]
    offsets: list[tuple[int, int]]
    counted: list[bool]

    def keep(self, chosen: Sequence[int]) -> "Encoded":
        """These tokens only."""
        return Encoded(
            self.text,
            [self.ids[k] for k in chosen],
            [self.offsets[k] for k in chosen],
            [self.counted[k] for k in chosen],
        )

    def tokens(self, tokenizer: Any) -> tuple[Token, ...]:
        """Every token with its piece of the text; what lies between two of them belongs to the second."""
        names: list[str] = tokenizer.convert_ids_to_tokens(self.ids)
        tokens: list[Token] = []
        last = self.offsets[0][0] if self.offsets else 0
        for name, (start, end), counted in zip(names, self.offsets, self.counted, strict=True):
            special = end <= start
            between = self.text[last:start]
            start = last if not special and not between.strip() else max(start, last)
            start, end = (last, last) if special else (min(start, end), end)
            tokens.append(Token(name if special else self.text[start:end], start, end, counted))
            last = max(last, end)
        return tuple(tokens)
