"""Ways out: exit codes, one message, tracebacks only when asked for, readers that leave, interruptions."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.cli.helpers import LINES, run, write

import assay
from assay.cli import main


def broken(*_: Any, **__: Any) -> None:
    raise ZeroDivisionError("half of nothing")


def test_a_fault_of_ours_is_exit_1_and_asks_for_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assay.explore.report", broken)
    message = run("report", "any", code=1).stderr
    assert "ZeroDivisionError: half of nothing" in message
    assert "report it" in " ".join(message.split())
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("words", "environment"),
    [(["--debug", "report", "any"], {}), (["report", "any", "--debug"], {}), (["report", "any"], {"ASSAY_DEBUG": "1"})],
)
def test_debug_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, words: list[str], environment: dict[str, str]
) -> None:
    monkeypatch.setattr("assay.explore.report", broken)
    done = run(*words, code=1, **environment)
    assert "Traceback" in done.stderr
    assert "test_main.py" in done.stderr
    assert done.stdout == ""


def test_help_and_version() -> None:
    shown = run("--help").stdout
    names = [name for name in main.commands if name in shown]
    assert names == list(main.commands)
    assert run("--version").stdout == f"assay {assay.__version__}\n"
    assert "--train" in run("index", "-h").stdout
    assert run(code=2).stdout == ""
    assert "No such command 'atribute'" in run("atribute", code=2).stderr


def test_what_strangers_wrote_cannot_steer_the_terminal_through_a_message() -> None:
    message = run("report", "\x1b[31mred\u202e", code=2).stderr
    assert "\x1b" not in message
    assert "\u202e" not in message
    assert "U+001B" in message


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "assay", *map(str, words)]


@pytest.mark.parametrize("words", [["methods"], ["index", "--help"]])
def test_a_reader_that_left_is_no_error(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command(*words), stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_interrupted_build_resumes_to_the_same_bits(model: Path, later: Path, tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [{"text": " ".join([line] * 4)} for line in LINES * 80])
    words = ("index", model, "--train", train, "--method", "tracin")
    words = (
        *words,
        "--checkpoint",
        f"{model}=0.1",
        *("--checkpoint", f"{later}=0.2") * 5,
        "--out",
    )  # plenty to interrupt
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    slowly = ["nice", "-n", "19", *command(*words, stopped)]  # so that the signal comes in time on a busy machine
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # also where this very process was started deaf to it
    process = subprocess.Popen(slowly, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    journal = stopped / "journal.jsonl"
    while process.poll() is None and not (journal.exists() and "c000" in journal.read_text("utf-8")):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    output, message = process.communicate(timeout=60)
    assert (process.returncode, output) == (2, ""), message
    assert "Traceback" not in message
    last = message.strip().splitlines()[-1]  # before it the progress
    assert (
        last
        == f"Interrupted: {80 * len(LINES)} examples are kept in {stopped}. Give the same command again to continue."
    )
    assert not (stopped / "manifest.json").exists()
    run(*words, stopped)
    run(*words, whole)
    files = [p.relative_to(whole) for p in sorted(whole.rglob("*")) if p.is_file()]
    assert files == [p.relative_to(stopped) for p in sorted(stopped.rglob("*")) if p.is_file()]
    assert [name for name in files if (whole / name).read_bytes() != (stopped / name).read_bytes()] == []
