"""Running commands in this process, and what a refusal looks like."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from assay.cli import main

LINES = (
    "the cat sat on the mat",
    "a big red dog ran under the tree",
    "hello who are you",
    "I am a dog .",
    "the big cat saw the red tree",
    "who ran on the mat",
)


def run(*words: object, code: int = 0, **environment: str) -> Result:
    """A command's result; standard output and standard error apart, 80 columns."""
    result = CliRunner(env={"COLUMNS": "80", **environment}).invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


def refused(*words: object, names: Iterable[str] = ()) -> str:
    """A command that must fail: exit code 2, nothing on standard output, one message that names what is wrong."""
    result = run(*words, code=2)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    _, *messages = " ".join(result.stderr.split()).split("Error: ")  # before it the progress
    (message,) = messages
    for name in names:
        assert str(name) in message
    return message


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def json_lines(result: Result) -> list[dict[str, Any]]:
    """Standard output, every line of which must be a JSON object."""
    return [json.loads(line) for line in result.stdout.splitlines()]
