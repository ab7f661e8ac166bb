"""Words of a text, and which part of a query lexical methods look for."""

import unicodedata
from collections.abc import Sequence

import regex

from assay.errors import MethodError
from assay.examples import Example, Examples

PARTS = ("whole", "completion")

# Scripts written without spaces count character by character; elsewhere a word is a run of letters, marks,
# digits and underscores.
WORD = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]\p{M}*"
    r"|[[\w\p{M}]--[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]]+",
    regex.VERSION1,
)


def words(text: str) -> list[str]:
    """Lower-cased words in order, repeats included.

    >>> words("The cat, the CAT_2!")
    ['the', 'cat', 'the', 'cat_2']
    """
    return WORD.findall(unicodedata.normalize("NFC", text.lower()))


def train_texts(train: Examples, method: str) -> Sequence[str]:
    """The texts to search in; raises MethodError for arrays."""
    _refuse_arrays(train, method)
    return train.texts


def query_texts(queries: Examples, part: str, method: str) -> Sequence[str]:
    """The texts to search for: whole examples, or completions (of chats: what the assistant says).

    Plain texts are their own completions. Raises MethodError for arrays.
    """
    _refuse_arrays(queries, method)
    return queries.texts if part == "whole" else [_completion(example) for example in queries]


def _completion(example: Example) -> str:
    if "completion" in example.data:
        return example.data["completion"]
    if "messages" in example.data:
        said = [message["content"] for message in example.data["messages"] if message["role"] == "assistant"]
        return "\n".join(said)
    return example.text


def _refuse_arrays(examples: Examples, method: str) -> None:
    if examples.kind == "arrays":
        raise MethodError(
            f"{method} compares words, and the examples of {examples.origin} are arrays; "
            "give it texts, or choose a method that uses the model."
        )
