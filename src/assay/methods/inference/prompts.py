"""How an example and a query become one prompt: a template's words, the example, and the query as it stands alone.

As tokens (a local model, or a server whose tokenizer is known) a query's tokens are the same with and without an example in
front, but for the token that begins a text, such as <s>, which stands once. As text, the server's tokenizer decides.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from assay.errors import DataError, MethodError
from assay.examples import Example, Examples
from assay.inference import Tokens
from assay.tasks import CausalLM
from assay.tasks.language import IGNORED

PLACE = "{example}"
LEAST = 8
"""Tokens of an example that must fit in front of the longest query."""


def split_template(template: str) -> tuple[str, str]:
    """What stands before and behind the example. Raises MethodError unless it stands there once."""
    if template.count(PLACE) != 1:
        raise MethodError(
            f"icp cannot take template={template!r}; expected a text with {PLACE} in it once, where the example stands."
        )
    before, _, behind = template.partition(PLACE)
    return before, behind


@dataclass(frozen=True)
class TokenPrompts:
    """`alone`: each query as the task encodes it. `continued`: without the token that begins a text."""

    alone: tuple[Tokens, ...]
    continued: tuple[Tokens, ...]
    before: tuple[int, ...]
    behind: tuple[int, ...]
    begin: int | None
    short: CausalLM
    """The task with the room that the longest query leaves."""
    cut: int
    """Queries that were longer than the context."""

    @staticmethod
    def of(task: CausalLM, template: str, queries: Examples) -> "TokenPrompts":
        """Raises DataError for a query that leaves no room for an example."""
        task.check(queries)
        begin: int | None = task.tokenizer.bos_token_id
        before, behind = (_plain(task, words) for words in split_template(template))
        items = [task.encode(query) for query in queries]
        alone = tuple(_tokens(item.tensors) for item in items)
        continued = tuple(_without(tokens, begin) for tokens in alone)
        longest = max(range(len(alone)), key=lambda k: len(continued[k]))
        room = task.max_length - len(continued[longest]) - len(before) - len(behind)
        if room < LEAST:
            raise DataError(
                f"Query {items[longest].id} has {len(continued[longest])} of the {task.max_length} tokens that the context "
                "holds, which leaves no room for an example in front. Leave it out, or shorten it."
            )
        short = copy.copy(task)
        short.max_length = room
        return TokenPrompts(alone, continued, before, behind, begin, short, sum(item.cut for item in items))

    def context(self, example: Example) -> tuple[tuple[int, ...], bool]:
        """The tokens in front of a query, and whether the example was cut. Raises DataError (long="refuse")."""
        item = self.short.encode(example)
        ids: tuple[int, ...] = tuple(cast(list[int], item.tensors["input_ids"].tolist()))
        head, rest = (ids[:1], ids[1:]) if ids[0] == self.begin else ((), ids)
        return (*head, *self.before, *rest, *self.behind), item.cut


@dataclass(frozen=True)
class TextPrompts:
    """Queries as (what is given, what is counted)."""

    queries: tuple[tuple[str, str], ...]
    template: str

    @staticmethod
    def of(template: str, queries: Examples) -> "TextPrompts":
        """Raises DataError for what is not plain text."""
        split_template(template)
        check_texts(queries)
        return TextPrompts(tuple(_split(query) for query in queries), template)

    def context(self, example: Example) -> str:
        """The text in front of a query."""
        return self.template.replace(PLACE, example.text)


def check_texts(examples: Examples) -> None:
    """Raises DataError for examples that only a tokenizer (for chats) or no prompt at all can hold."""
    if examples.kind not in ("text", "completion"):
        raise DataError(
            f"{examples.origin} holds examples of kind '{examples.kind}', and a server takes texts. Give text, or prompt and "
            "completion; for messages name the model's tokenizer (--tokenizer), which has the chat template."
        )


def _split(query: Example) -> tuple[str, str]:
    if "completion" in query.data:
        return query.data["prompt"], query.data["completion"]
    return "", query.data["text"]


def _tokens(tensors: Any) -> Tokens:
    labels: Sequence[int] = tensors["labels"].tolist()
    return Tokens(tuple(tensors["input_ids"].tolist()), tuple(label != IGNORED for label in labels))


def _without(tokens: Tokens, begin: int | None) -> Tokens:
    return Tokens(tokens.ids[1:], tokens.counted[1:]) if tokens.ids[0] == begin else tokens


def _plain(task: CausalLM, words: str) -> tuple[int, ...]:
    """The tokens of words inside a text."""
    return tuple(task.tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"]) if words else ()
