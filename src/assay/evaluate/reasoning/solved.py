r"""Which problems a language model solves: it answers each greedily, and its answer is compared with the right one.

The answer is what stands behind `####` (as in GSM8K) or in `\boxed{}`, where the right solution has one; else the solution itself,
which the model's text has to begin with. For anything else, such as running the tests of a program, give a function.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool

from assay import progress
from assay.errors import DataError, ModelError
from assay.examples import Example, read
from assay.models import Model
from assay.tasks import CausalLM
from assay.tasks.base import evaluating

Check = Callable[[str, Example], bool]
"""Given what the model wrote and the problem: whether it is right."""
_FINAL = re.compile(r"####\s*([-+]?[\d.,]*\d)")
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")


def solved(
    model: Model, problems: Any, check: Check | None = None, tokens: int | None = None
) -> Bool[np.ndarray, " n"]:
    """Whether the model's greedy answer to each problem is right, bool [n].

    Args:
        model: a causal language model that can generate, from `assay.load`.
        problems: anything that `read` takes, with prompt and completion, or messages whose last is the assistant's.
        check: compares, see above; by default `is_right`.
        tokens: at most so many are generated; by default half as many again as the right solution has, and 8.

    Raises:
        DataError: no problems, or of another kind. ModelError: a model that cannot generate.
    """
    problems = read(problems)
    if not len(problems) or problems.kind not in ("completion", "messages"):
        what = f"{len(problems)} problems of kind '{problems.kind}'" if len(problems) else "no problems"
        raise DataError(f"{problems.origin} holds {what}; expected prompts with completions, or messages.")
    if not isinstance(model.task, CausalLM) or not hasattr(model.module, "generate"):
        raise ModelError(
            f"{model.name} cannot generate text, so it cannot be seen what it solves. Give a causal language model of the "
            "model library, or choose the solved problems yourself (a field 'solved')."
        )
    right = check or is_right
    found = np.zeros(len(problems), bool)
    with progress.task("answering", len(problems)) as advance:
        for row, problem in enumerate(problems):
            found[row] = right(_answer(model, problem, tokens), problem)
            advance()
    return found


def is_right(text: str, problem: Example) -> bool:
    """Whether a text gives the problem's answer."""
    reference = _reference(problem)
    for pattern in (_FINAL, _BOXED):
        if expected := pattern.search(reference):
            given = pattern.search(text)
            return given is not None and _plain(given[1]) == _plain(expected[1])
    wanted, said = " ".join(reference.split()), " ".join(text.split())
    behind = said[len(wanted) : len(wanted) + 1]
    return said.startswith(wanted) and not (behind.isalnum() and wanted[-1:].isalnum())


def _plain(answer: str) -> str:
    return answer.replace(",", "").rstrip(".").strip()


def _reference(problem: Example) -> str:
    data = problem.data
    return str(data["completion"] if "completion" in data else data["messages"][-1]["content"])


def _answer(model: Model, problem: Example, most: int | None) -> str:
    """What the model writes."""
    module, tokenizer = cast(Any, model.module), cast(Any, model.task).tokenizer
    ids = _prompt(tokenizer, problem)
    count = most or 8 + len(tokenizer(_reference(problem), add_special_tokens=False)["input_ids"]) * 3 // 2
    context = cast(CausalLM, model.task).max_length
    count = max(1, min(count, context - 1))
    ids = ids[-(context - count) :]
    given = torch.tensor([ids], device=model.device)
    with evaluating(module), torch.no_grad():
        made = module.generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=count, do_sample=False,
            pad_token_id=cast(Any, model.task).pad,
        )  # fmt: skip
    return str(tokenizer.decode(made[0, len(ids) :], skip_special_tokens=True))


def _prompt(tokenizer: Any, problem: Example) -> Sequence[int]:
    data = problem.data
    if "messages" in data:
        return list(tokenizer.apply_chat_template(data["messages"][:-1], add_generation_prompt=True))
    # no end of text, where the tokenizer writes one
    ids: list[int] = list(tokenizer(data["prompt"])["input_ids"])
    return ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids
