"""What completion servers return for a prompt, made into the log-likelihood of its counted end; or what is wrong with it.

Two forms carry log-probabilities of the prompt:

    echo       `echo: true, logprobs: 1`: `choices[0].logprobs` has `tokens`, `token_logprobs` and `top_logprobs` of the prompt,
               then of what was generated (vLLM, SGLang, llama-cpp-python's server, the completions interface as it was
               first defined)
    prompt     `prompt_logprobs: 0`: `choices[0].prompt_logprobs` has null, then {token: {logprob, rank, decoded_token}} for
               each token (vLLM)

Whether a token was the likeliest is told by the largest of its `top_logprobs`, or by its `rank`; where either is missing for a
counted token, it is not known of the answer. (`top_logprobs` has words for keys, so that of two tokens with the same word a
server may tell one: then the token counts as likeliest though its twin was.)

llama.cpp's own llama-server (which refuses `echo`, or gives the generated token alone) and `transformers serve` (which
ignores both) return neither. A server that counts fewer tokens than the prompt has is found here: wrong lengths never become
scores.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from assay.errors import ServerError
from assay.inference.likelihood import Likelihood, Request

Form = Literal["echo", "prompt"]
FORMS: tuple[Form, ...] = ("echo", "prompt")
ASKED: dict[Form, dict[str, Any]] = {"echo": {"echo": True, "logprobs": 1}, "prompt": {"prompt_logprobs": 0}}
SURE = 1e-3
"""Log-probabilities up to here are rounding; above they are none."""
WANTED = (
    "In-context probing needs the log-probabilities of the prompt: vLLM, SGLang and llama-cpp-python's server (with "
    "logits_all) return them with echo; llama.cpp's llama-server and transformers serve do not."
)


@dataclass(frozen=True)
class Told:
    """A prompt's tokens as the server tells them: its words for them (where it has them), their log-probabilities, and
    whether they were the likeliest (where it tells).
    """

    tokens: Sequence[str | None]
    values: Sequence[float | None]
    first: Sequence[bool | None]

    def until(self, end: int) -> "Told":
        """Those in front."""
        return Told(self.tokens[:end], self.values[:end], self.first[:end])


def body(model: str, prompt: str | tuple[int, ...], form: Form) -> dict[str, Any]:
    """The request; one token is generated and not used, as not every server takes none."""
    text = prompt if isinstance(prompt, str) else list(prompt)
    return {"model": model, "prompt": text, "max_tokens": 1, "temperature": 0, **ASKED[form]}


def likelihood(answer: Mapping[str, Any], request: Request, form: Form) -> Likelihood:
    """Of the counted part. Raises ServerError for an answer that does not hold it."""
    told = _told(answer, form)
    if isinstance(request.prompt, str):
        letters = cast(int, request.counted)
        return _end_of_text(_of_text(told, request.prompt, letters, _generated(answer)), letters)
    told = _of_tokens(told, len(request.prompt))
    return _marked(told, cast(tuple[bool, ...], request.counted))


def generated(answer: Mapping[str, Any]) -> str:
    """The text that was generated. Raises ServerError."""
    text = _choice(answer).get("text")
    if not isinstance(text, str):
        raise ServerError(f"The server's answer has no text: choices[0].text is {type(text).__name__}.")
    return text


def told_text(answer: Mapping[str, Any], form: Form) -> str | None:
    """The words of all tokens together, or None where the server has none for one."""
    tokens = _told(answer, form).tokens
    return "".join(cast(Sequence[str], tokens)) if all(token is not None for token in tokens) else None


# -- from JSON ---------------------------------------------------------------------------------------------------------


def _choice(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise ServerError(f"The server's answer has no choices; it has {', '.join(map(str, answer)) or 'nothing'}.")
    return cast(Mapping[str, Any], choices[0])


def _told(answer: Mapping[str, Any], form: Form) -> Told:
    choice = _choice(answer)
    entries = choice.get("logprobs") if form == "echo" else choice.get("prompt_logprobs")
    if form == "prompt" and isinstance(entries, list):
        found = [_entry(entry) for entry in cast(list[Any], entries)]
        return Told(
            [word for word, _, _ in found], [_number(value) for _, value, _ in found], [one for _, _, one in found]
        )
    if form == "echo" and isinstance(entries, dict):
        pair = cast(dict[str, Any], entries)
        if isinstance(pair.get("token_logprobs"), list):
            values: list[Any] = pair["token_logprobs"]
            tokens: list[Any] = pair["tokens"] if isinstance(pair.get("tokens"), list) else [None] * len(values)
            if len(tokens) != len(values):
                raise ServerError(f"The server tells {len(tokens)} tokens and {len(values)} log-probabilities of them.")
            words = [token if isinstance(token, str) else None for token in tokens]
            numbers = [_number(value) for value in values]
            return Told(words, numbers, _first(numbers, pair.get("top_logprobs")))
    raise ServerError(f"The server's answer has no log-probabilities of the prompt. {WANTED}")


def _first(values: Sequence[float | None], top: Any) -> list[bool | None]:
    """Whether nothing is likelier, of each token; `top`: for each null, or words and log-probabilities."""
    if not isinstance(top, list) or len(cast(list[Any], top)) != len(values):
        return [None] * len(values)
    best = [_best(each) for each in cast(list[Any], top)]
    return [None if b is None or v is None else v >= b for v, b in zip(values, best, strict=True)]


def _best(told: Any) -> float | None:
    numbers = [_number(value) for value in cast(dict[str, Any], told).values()] if isinstance(told, dict) else []
    return max((number for number in numbers if number is not None), default=None)


def _entry(entry: Any) -> tuple[str | None, Any, bool | None]:
    """Of vLLM's list, null or one token: its word, its log-probability, and whether its rank is 1."""
    if entry is None:
        return None, None, None
    entries: list[Any] = list(cast(dict[str, Any], entry).values()) if isinstance(entry, dict) else []
    if len(entries) != 1 or not isinstance(entries[0], dict):
        raise ServerError(
            "The server's prompt_logprobs do not tell which token is the prompt's; one each was expected."
        )
    told = cast(dict[str, Any], entries[0])
    token, rank = told.get("decoded_token"), told.get("rank")
    return token if isinstance(token, str) else None, told.get("logprob"), rank == 1 if isinstance(rank, int) else None


def _number(value: Any) -> float | None:
    """A log-probability or null. Raises ServerError for what is none."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value > SURE:
        raise ServerError(f"The server tells {value!r} as a log-probability; a number of at most 0 was expected.")
    return float(value)


def _generated(answer: Mapping[str, Any]) -> list[int]:
    """How many tokens at the end were generated, the likeliest guess first."""
    usage = answer.get("usage")
    told = cast(Any, usage).get("completion_tokens") if isinstance(usage, dict) else None
    return [told, 1, 0] if isinstance(told, int) and 0 <= told <= 1 else [1, 0]


# -- the counted part --------------------------------------------------------------------------------------------------


def _of_tokens(told: Told, count: int) -> Told:
    """The prompt's tokens. Raises ServerError unless there are as many as were sent."""
    if len(told.values) not in (count, count + 1):
        raise ServerError(
            f"The server tells {len(told.values)} log-probabilities for a prompt of {count} tokens and one more. {WANTED}"
        )
    return told.until(count)


def _of_text(told: Told, prompt: str, letters: int, generated: Sequence[int]) -> Told:
    """The tokens that spell the prompt (a token such as <s> may stand in front). Where characters outside the counted end
    are split over tokens, and so told as replacement characters, the end must be spelled. Raises ServerError if none do.
    """
    if any(token is None for token in told.tokens[1:]):
        raise ServerError(f"The server tells no words for its tokens, so they cannot be found in the text. {_SEND}")
    words = ["" if token is None else token for token in told.tokens]
    if told.tokens[:1] == [None]:  # vLLM's list has null for the first: its word is what is left of the prompt
        rest = "".join(words[1:])
        words[0] = prompt[: len(prompt) - len(rest)] if prompt.endswith(rest) else ""
    for number in generated:
        end = len(words) - number
        spelled = "".join(words[:end])
        if spelled.endswith(prompt if BROKEN not in spelled else prompt[len(prompt) - letters :]):
            return Told(words, told.values, told.first).until(end)
    if len(words) < 3 and len(prompt) > 40:
        raise ServerError(
            f"The server tells {len(words)} log-probabilities for a text of {len(prompt)} letters. {WANTED}"
        )
    raise ServerError(f"The words of the server's tokens do not spell the text that was sent. {_SEND}")


BROKEN = "\ufffd"
"""What a part of a character is told as."""
_SEND = "Name the model's tokenizer (--tokenizer DIR), so that tokens are sent instead of text."


def _end_of_text(told: Told, letters: int) -> Likelihood:
    """Tokens that end in the last so many letters; at the very start of a prompt a token has no log-probability."""
    places: list[int] = []
    left, position = letters, len(told.values) - 1
    while left > 0 and position >= 0:
        if told.values[position] is None:
            _expect_start(position)
            break
        places.append(position)
        left -= len(cast(str, told.tokens[position]))
        position -= 1
    return _counted(told, places[::-1], max(0, left))


def _marked(told: Told, counted: Sequence[bool]) -> Likelihood:
    places: list[int] = []
    for position, (value, mark) in enumerate(zip(told.values, counted, strict=True)):
        if mark and value is None:
            _expect_start(position)
        elif mark:
            places.append(position)
    return _counted(told, places, 0)


def _expect_start(position: int) -> None:
    if position > 0:
        raise ServerError(f"The server has no log-probability for token {position + 1} of a prompt. {WANTED}")


def _counted(told: Told, places: Sequence[int], lead: int) -> Likelihood:
    if not places:
        raise ServerError("The server's answer has no token to count: the text is a single token, with none before it.")
    values, first = (tuple(told.values[k] for k in places), tuple(told.first[k] for k in places))
    known = None if None in first else cast(tuple[bool, ...], first)
    return Likelihood(cast(tuple[float, ...], values), lead, known)
