"""Folds: sums of a score's parts over sentences of a text and layers of a model."""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from assay.tasks import Token

_END = re.compile(r"""(?:[.!?…]+["'”’)\]]*(?=\s)|[。！？]+[」』”’）]*)\s*|\n+\s*""")


def sentences(text: str) -> list[tuple[int, int]]:
    """Where each sentence begins and ends, white space behind it included; together they are the whole text.

    A sentence ends behind `.`, `!`, `?` before white space, behind their ideographic forms, and at a line's end.

    >>> sentences("One. Two!  Three")
    [(0, 5), (5, 11), (11, 16)]
    """
    ends = [match.end() for match in _END.finditer(text)]
    if not ends or ends[-1] < len(text):
        ends.append(len(text))
    return [(start, end) for start, end in zip([0, *ends], ends, strict=False) if start < end]


def by_sentence(
    tokens: Sequence[Token], scores: Float64[np.ndarray, " tokens"]
) -> tuple[list[Token], Float64[np.ndarray, " sentences"]]:
    """Sums over the tokens of each sentence, and each sentence as one token of all its text. A token that reaches over an
    end belongs to the sentence that holds its last visible character; one without text to that of the token before it.
    """
    text = "".join(token.text for token in tokens if token.start < token.end)
    ends = [end for _, end in sentences(text)] or [0]
    groups: list[int] = []
    position = 0
    for token in tokens:
        if token.start < token.end:
            last = position + max(len(token.text.rstrip()), 1) - 1
            groups.append(int(np.searchsorted(ends, last, side="right")))
            position += len(token.text)
        else:
            groups.append(groups[-1] if groups else 0)
    known = sorted(set(groups))
    members = [[t for t, group in zip(tokens, groups, strict=True) if group == one] for one in known]
    wholes = [
        Token(
            "".join(t.text for t in some if t.start < t.end) or some[0].text,
            min(t.start for t in some),
            max(t.end for t in some),
            any(t.counted for t in some),
        )
        for some in members
    ]
    return wholes, np.array([scores[[g == one for g in groups]].sum() for one in known], np.float64)


def layer_of(module: str) -> str:
    """The layer that a module belongs to: its name through the first number, or its own name where it has none.

    >>> layer_of("model.layers.3.mlp.down_proj"), layer_of("lm_head"), layer_of("model.norm.weight")
    ('model.layers.3', 'lm_head', 'model.norm')
    """
    words = module.split(".")
    number = next((k for k, word in enumerate(words) if word.isdecimal()), None)
    if number is not None:
        return ".".join(words[: number + 1])
    return ".".join(words[:-1] if len(words) > 1 and words[-1] in ("weight", "bias") else words)


def by_layer(
    modules: Sequence[str], scores: Float64[np.ndarray, " modules"]
) -> tuple[list[str], Float64[np.ndarray, " layers"]]:
    """Sums over the modules of each layer, layers in the order of their first modules."""
    layers = [layer_of(module) for module in modules]
    names = list(dict.fromkeys(layers))
    return names, np.array([scores[[layer == name for layer in layers]].sum() for name in names], np.float64)
