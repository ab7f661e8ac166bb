"""A language model behind the OpenAI completions interface, as the user names it."""

import hashlib
import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast
from urllib.parse import urlsplit

from assay.errors import InputError, ModelError
from assay.tasks import CausalLM
from assay.tasks.language import Long

PREFIX = "server:"
KEY = "ASSAY_API_KEY"
"""The environment variable with the server's key; it is read when a request is sent and kept nowhere."""


@dataclass(frozen=True)
class Server:
    """A model that is asked over HTTP: it must return log-probabilities of the prompt's own tokens.

    Args:
        url: of the interface, up to and with `/v1`; `/completions` is put behind it. Keys do not belong into it: a server
            that needs one gets it from the environment variable `ASSAY_API_KEY`.
        model: the model's name there.
        tokenizer: a directory (or hub id) with the model's tokenizer. Prompts are then sent as tokens, the same as a local
            model would see; without it as text, and the tokens that the server tells are matched with the text.
        max_length: the longest prompt in tokens (with a tokenizer); by default what the tokenizer says, at most 4,096.
        long: `"cut"` or `"refuse"` longer texts (with a tokenizer; without, the server refuses).
        concurrency: requests under way at once.
        rate: requests a minute at most; None: as many as the server takes.
        timeout: seconds until an answer must have come.
        retries: times that a request is sent again after an error of the server, a lost connection or silence.
        answers: a directory where answers are kept, so that a run that ended early goes on; by default `assay/answers` in the
            user's cache. Hashes and numbers are kept, no text.

    Raises:
        InputError: an URL that is none, or has a key in it.
    """

    url: str
    model: str
    tokenizer: str | None = None
    max_length: int | None = None
    long: Long = "cut"
    concurrency: int = 8
    rate: float | None = None
    timeout: float = 60.0
    retries: int = 5
    answers: str | os.PathLike[str] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"'{_without_secrets(self.url)}' is no URL of a server; expected http://HOST:PORT/v1.")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise InputError(
                f"The URL {_without_secrets(self.url)} has a user, a key or a query in it, which would be saved with every "
                f"run. Give the plain URL, and the key in the environment variable {KEY}."
            )
        if not self.model:
            raise InputError(f"The server {self.url} was given without a model; expected {PREFIX}{self.url}#MODEL.")
        for name, least in (("concurrency", 1), ("retries", 0)):
            if getattr(self, name) < least:
                raise InputError(f"The server's {name} is {getattr(self, name)}; at least {least} was expected.")
        for name in ("rate", "timeout"):
            if (value := getattr(self, name)) is not None and not 0 < value < float("inf"):
                raise InputError(f"The server's {name} is {value}; a number above 0 was expected.")

    @classmethod
    def parse(cls, text: str, **options: Any) -> "Server":
        """From `server:http://HOST:PORT/v1#MODEL`."""
        url, _, model = text.removeprefix(PREFIX).partition("#")
        return cls(url.rstrip("/"), model, **options)

    @property
    def name(self) -> str:
        """As the command line names it."""
        return f"{PREFIX}{self.url}#{self.model}"

    def fingerprint(self) -> str:
        """SHA-256 of the address, the model's name and how prompts become tokens; nobody outside sees its weights."""
        told = [self.url, self.model, None if self.task is None else self.task.identity()]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    @cached_property
    def task(self) -> CausalLM | None:
        """How texts become tokens, if a tokenizer was given. Raises ModelError if it cannot be loaded."""
        if self.tokenizer is None:
            return None
        import transformers

        try:
            tokenizer = cast(Any, transformers.AutoTokenizer).from_pretrained(self.tokenizer)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError) as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ModelError(f"The tokenizer at {self.tokenizer} cannot be loaded: {reason}") from error
        if not tokenizer.is_fast:
            raise ModelError(f"The tokenizer at {self.tokenizer} has no tokenizer.json; save it as a fast tokenizer.")
        known: int | None = tokenizer.model_max_length
        limit = self.max_length or (min(known, LONGEST) if known and known < 10**9 else LONGEST)
        return CausalLM(tokenizer, limit, self.long)


LONGEST = 4096
"""Tokens of a prompt at most, where nobody says."""


def _without_secrets(url: str) -> str:
    """The scheme and host, for a message."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}/..." if parts.hostname else url.partition("?")[0].rpartition("@")[2]
