"""The baseline: ask the model which documents it used. What it says may be wrong, in either direction."""

import regex

from assay.act.guard.scorers import Asked, Kept

ASK = "{documents}Question: {question}\nAnswer: {answer}\nThe answer was found in the documents with the numbers:"
"""The documents stand there as `[1] text`, one a line."""
SAID = 16
"""Tokens of the model's reply."""


def said(asked: Asked, documents: tuple[str, ...], question: str, answer: str, ask: str = ASK) -> Kept | None:
    """The documents that the model names by their numbers; None if it names none that there is."""
    listed = "".join(f"[{k + 1}] {text}\n" for k, text in enumerate(documents))
    prompt = ask.replace("{documents}", listed).replace("{question}", question).replace("{answer}", answer)
    reply = asked.generate(prompt, SAID).split("\n")[0]
    named = {int(number) - 1 for number in regex.findall(r"\d{1,6}", reply)}
    known = tuple(sorted(named & set(range(len(documents)))))
    return known or None
