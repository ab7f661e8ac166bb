"""In-context probing through a real server process, and through servers that misbehave."""

import itertools
import json
import logging
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cli.helpers import json_lines, refused, run, write
from tests.support import examples

import assay
from assay import Server
from assay.act.guard.scorers import AskedLocal, Prompt
from assay.errors import DataError, InputError, MethodError, ModelError, ServerError
from assay.inference import Request, Session
from assay.inference.client import Client
from assay.inference.kept import folder_of

POOL = examples("the cat sat on the mat", "hello who are you", "a “quoted” dog — über", "the lazy dog sleeps")
TASKS = examples(
    {"prompt": "the cat sat", "completion": " on the mat."},
    {"prompt": "hello who", "completion": " are you and the dog"},
)
FAST: dict[str, Any] = {"timeout": 20.0, "retries": 0}


def server(port: int, way: str = "echo", **options: Any) -> Server:
    return Server(f"http://127.0.0.1:{port}/{way}/v1", options.pop("model", "tiny"), **FAST | options)


def counted(port: int, way: str) -> dict[str, int]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
        told = json.load(answer)
    return {name: told[name].get(way, 0) for name in ("seen", "most")}


@pytest.fixture(scope="module")
def local(bytes_model: Path) -> np.ndarray:
    """What the same model answers in this process."""
    return assay.attribute(assay.load(bytes_model), POOL, TASKS, "icp").array


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["echo", "prompt"])
@pytest.mark.parametrize("tokens", [False, True], ids=["text", "tokens"])
def test_a_server_gives_what_the_model_itself_gives(
    port: int, bytes_model: Path, local: np.ndarray, way: str, tokens: bool
) -> None:
    """By either form of log-probabilities, and with prompts as text or as tokens. Texts meet at a space, so that both
    have the same tokens; the third example's characters are split over tokens.
    """
    asked = server(port, way, tokenizer=str(bytes_model) if tokens else None)
    scores = assay.attribute(asked, POOL, TASKS, "icp")
    np.testing.assert_allclose(scores.array, local, atol=2e-5)
    assert scores.provenance.inputs["model"] == f"server:http://127.0.0.1:{port}/{way}/v1#tiny"
    values = assay.value(asked, POOL, TASKS, "icp")
    np.testing.assert_allclose(values.array, (local > 0).mean(1))
    assert values.provenance.notes[-1].endswith("10 of them kept from before.")


def test_a_query_that_splits_characters_needs_the_tokenizer(port: int, bytes_model: Path) -> None:
    query = examples({"prompt": "the dog", "completion": " — über"})
    with pytest.raises(ServerError, match=r"do not spell the text.*--tokenizer"):
        assay.attribute(server(port), POOL, query, "icp")
    found = assay.attribute(server(port, tokenizer=str(bytes_model)), POOL, query, "icp").array
    np.testing.assert_allclose(found, assay.attribute(assay.load(bytes_model), POOL, query, "icp").array, atol=2e-5)


def test_plain_texts_and_long_examples(port: int, bytes_model: Path) -> None:
    texts = examples("the cat sat on the mat", "hello who are you")
    model = assay.load(bytes_model, max_length=26)
    expected = assay.attribute(model, POOL, texts, "icp")
    found = assay.attribute(server(port, tokenizer=str(bytes_model), max_length=26), POOL, texts, "icp")
    np.testing.assert_allclose(found.array, expected.array, atol=2e-5)
    assert found.provenance.notes[0] == expected.provenance.notes[0]
    assert "were cut" in expected.provenance.notes[0]
    whole = assay.attribute(assay.load(bytes_model), POOL, texts, "icp").array
    np.testing.assert_allclose(assay.attribute(server(port), POOL, texts, "icp").array, whole, atol=2e-5)


def test_many_are_under_way_and_a_rate_is_kept(port: int, local: np.ndarray, tmp_path: Path) -> None:
    found = assay.attribute(server(port, "slow", concurrency=4), POOL, TASKS, "icp").array
    np.testing.assert_allclose(found, local, atol=2e-5)
    assert 2 <= counted(port, "slow")["most"] <= 4
    start = time.monotonic()
    assay.attribute(server(port, "echo", rate=1200.0, answers=tmp_path / "new"), POOL, TASKS[:1], "icp")
    assert time.monotonic() - start > 5 * 0.05  # six requests, the first at once


def test_generation(port: int, bytes_model: Path) -> None:
    from assay.inference import Local

    model = assay.load(bytes_model)
    with Session(server(port)) as session:
        told = session.generate("the cat", 5)
    ids = Local(model).generate(model.task.tokenizer("the cat")["input_ids"], 5)  # type: ignore[attr-defined]
    assert model.task.tokenizer.decode(ids) == told  # type: ignore[attr-defined]


# -- patience, and what is kept ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("way", "times"), [("busy3", 4), ("shaky", 2)])
def test_what_fails_for_a_while_is_asked_again(
    port: int, local: np.ndarray, way: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("assay.inference.client._backoff", lambda state: 0.01)
    found = assay.attribute(server(port, way, retries=3), POOL, TASKS, "icp").array
    np.testing.assert_allclose(found, local, atol=2e-5)
    assert counted(port, way)["seen"] == times * (1 + 5 * 2)


def test_answers_are_kept_and_a_killed_run_goes_on(port: int, bytes_model: Path, tmp_path: Path) -> None:
    """Killed in the middle; then only what is missing is asked, and nothing of the texts is in the kept answers."""
    pool = [{"text": f"the cat sat on mat number {k}"} for k in range(40)]
    train, tasks = write(tmp_path / "pool.jsonl", pool), write(tmp_path / "tasks.jsonl", [dict(q.data) for q in TASKS])
    kept, name = tmp_path / "kept", f"server:http://127.0.0.1:{port}/slow/v1#tiny"
    options = ["--method", "icp", "--train", train, "--on", tasks, "--answers", kept, "--concurrency", "2"]
    before = counted(port, "slow")["seen"]
    words = [sys.executable, "-m", "assay", "value", name, *map(str, options)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while counted(port, "slow")["seen"] - before < 20 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.2)
    asked = counted(port, "slow")["seen"] - before
    assert asked < 82
    result = run("value", name, *options, "--json")
    assert 82 + 1 <= counted(port, "slow")["seen"] - before - 1 <= 82 + 1 + 6  # two probes, and what was under way
    values = [line for line in json_lines(result) if "value" in line]
    assert len(values) == 20
    (file,) = kept.glob("*.sqlite")
    assert b"the cat" not in file.read_bytes()
    # a damaged file is told, another model's answers are not used
    again = json_lines(run("value", name, *options, "--json"))[-1]
    assert "82 of them kept from before" in again["run"]["notes"][-1]
    for part in kept.glob("*.sqlite*"):
        part.unlink()
    file.write_bytes(b"no database, but long enough to be looked at" * 40)
    refused("value", name, *options, names=["Answers cannot be kept", "--answers"])


def test_another_model_under_the_same_name_is_asked_anew(
    port: int, local: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    assay.attribute(server(port, "other"), POOL, TASKS, "icp")
    monkeypatch.setattr(Server, "fingerprint", lambda self: "the same for both")
    assay.attribute(server(port, "other"), POOL, TASKS, "icp")
    found = assay.attribute(server(port, "echo"), POOL, TASKS, "icp")
    assert found.provenance.notes[-1].endswith(", 0 of them kept from before.")
    np.testing.assert_allclose(found.array, local, atol=2e-5)
    assert (
        assay.attribute(server(port, "echo"), POOL, TASKS, "icp")
        .provenance.notes[-1]
        .endswith("10 of them kept from before.")
    )


# -- servers that misbehave --------------------------------------------------------------------------------------------

BAD = {
    "down": ["asked once", "status 500: boom", "what it has answered is kept"],
    "stalls": ["did not answer within 0.5 seconds"],
    "away": ["left alone for 7,200 seconds"],
    "lost": ["cannot be reached"],
    "moved": ["status 302", "URL"],
    "html": ["no JSON", "welcome"],
    "list": ["no object"],
    "empty": ["no choices", "object"],
    "short": ["spell"],
    "nan": ["tells nan as a log-probability"],
    "positive": ["tells 0.5 as a log-probability"],
    "generated": ["1 log-probabilities for a text", "llama.cpp", "vLLM"],
    "ignores": ["no log-probabilities of the prompt", "transformers serve"],
}


@pytest.mark.parametrize("way", BAD)
def test_a_server_that_misbehaves_is_told_in_words(port: int, way: str) -> None:
    with pytest.raises(ServerError) as caught:
        assay.attribute(server(port, way, timeout=0.5 if way == "stalls" else 20.0), POOL, TASKS, "icp")
    assert caught.value.exit_code == 2
    for words in BAD[way]:
        assert words in str(caught.value)


@pytest.mark.parametrize("way", ["short", "generated"])
def test_wrong_lengths_are_noticed_with_tokens_too(port: int, bytes_model: Path, way: str) -> None:
    with pytest.raises(ServerError, match=r"tells \d+ log-probabilities for a prompt of \d+ tokens"):
        assay.attribute(server(port, way, tokenizer=str(bytes_model)), POOL, TASKS, "icp")


def test_nobody_there_an_unknown_model_and_another_tokenizer(port: int, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        empty = free.getsockname()[1]
    start = time.monotonic()
    with pytest.raises(ServerError, match=r"cannot be reached.*Start it, or correct the URL"):
        assay.attribute(server(empty, retries=5), POOL, TASKS, "icp")
    assert time.monotonic() - start < 5
    with pytest.raises(ServerError, match=r"status 404.*does not exist.*'huge' was asked for"):
        assay.attribute(server(port, model="huge"), POOL, TASKS, "icp")
    from tests.support import tokenizer

    tokenizer().save_pretrained(tmp_path / "other")
    with pytest.raises(ServerError, match="are others to the server"):
        assay.attribute(server(port, tokenizer=str(tmp_path / "other")), POOL, TASKS, "icp")
    with pytest.raises(ModelError, match="tokenizer at nowhere cannot be loaded"):
        assay.attribute(server(port, tokenizer="nowhere"), POOL, TASKS, "icp")
    chats = examples({"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "who"}]})
    with pytest.raises(DataError, match="chat template"):
        assay.attribute(server(port), chats, chats, "icp")


# -- the key -----------------------------------------------------------------------------------------------------------


def test_the_key_comes_from_the_environment_and_goes_nowhere_else(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Right, wrong and missing; in the run directory, the kept answers, messages, logs and tracebacks there is none."""
    train, tasks = tmp_path / "pool.jsonl", tmp_path / "tasks.jsonl"
    write(train, [dict(one.data) for one in POOL])
    write(tasks, [dict(one.data) for one in TASKS])
    name = f"server:http://127.0.0.1:{port}/locked/v1#tiny"
    words = ["value", name, "--method", "icp", "--train", train, "--on", tasks, "--answers", tmp_path / "kept"]
    told = refused(*words, names=["status 401", "ASSAY_API_KEY is not set"])
    caplog.set_level(logging.DEBUG)
    secret = "open-sesam"  # part of both
    monkeypatch.setenv("ASSAY_API_KEY", "open-sesam-wrong")
    result = run(*words, "--debug", code=2)
    assert "[key]" in result.stderr
    assert "does not fit" in " ".join(result.stderr.split())
    told += result.output
    monkeypatch.setenv("ASSAY_API_KEY", "open-sesame")
    result = run(*words, "--out", tmp_path / "run", "--json")
    told += result.output + caplog.text
    with pytest.raises(ServerError, match="boom") as caught:
        assay.attribute(server(port, "down"), POOL, TASKS, "icp")
    told += (
        str(caught.value)
        + repr(server(port))
        + repr(Client(server(port)))
        + json.dumps(vars(server(port)), default=str)
    )
    assert secret not in told
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert any(file.name == "run.json" for file in files)
    assert any(file.suffix == ".sqlite" for file in files)
    assert not [file for file in files if secret.encode() in file.read_bytes()]
    monkeypatch.setenv("ASSAY_API_KEY", "open-sesame\nand more")
    with pytest.raises(ServerError, match="has a space or a character that no key has") as caught:
        assay.attribute(server(port), POOL, TASKS, "icp")
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://user:secret@host/v1", "ASSAY_API_KEY"),
        ("https://host/v1?api-key=secret", "ASSAY_API_KEY"),
        ("host:8000/v1", "no URL of a server"),
        ("ftp://host/v1", "no URL of a server"),
    ],
)
def test_urls_that_are_refused(url: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        Server(url, "tiny")
    assert "secret" not in str(caught.value)


# -- the command line --------------------------------------------------------------------------------------------------


def test_what_the_command_line_says_of_servers(port: int, tmp_path: Path, bytes_model: Path) -> None:
    train = write(tmp_path / "pool.jsonl", [dict(one.data) for one in POOL])
    tasks = write(tmp_path / "tasks.jsonl", [dict(one.data) for one in TASKS])
    name = f"server:http://127.0.0.1:{port}/echo/v1#tiny"
    data = ["--train", train, "--queries", tasks, "--method", "icp"]
    seen = counted(port, "echo")["seen"]
    (plan,) = json_lines(run("plan", name, *data, "--rate", 60, "--json"))
    assert plan["plan"]["seconds"] == pytest.approx(10)
    assert "10 requests with about" in plan["plan"]["notes"][0]
    (plan,) = json_lines(run("plan", bytes_model, *data, "--json"))
    assert [step["name"] for step in plan["plan"]["steps"]] == ["examples", "queries behind each"]
    assert counted(port, "echo")["seen"] == seen
    result = run("attribute", name, *data, "--tokenizer", bytes_model)
    assert "10 requests with about" in result.stderr
    assert "10 answers of" in result.stdout
    refused("attribute", name, "--train", train, "--queries", tasks, names=["gradcos", "MODEL is a server", "icp"])
    refused("attribute", bytes_model, *data, "--rate", 5, names=["--rate is for a server"])
    refused("attribute", name, *data, "--dtype", "float32", names=["MODEL is a server"])
    refused("attribute", name, *data, "--check", 1, names=["--check"])
    refused("index", name, "--train", train, "--out", tmp_path / "index", names=["server"])
    refused("attribute", f"server:http://127.0.0.1:{port}/v1", *data, names=["without a model", "#MODEL"])
    write(tmp_path / "none.jsonl", [])
    refused("value", name, "--train", train, "--on", tmp_path / "none.jsonl", "--method", "icp", names=["none.jsonl"])
    with pytest.raises(MethodError, match="icp asks a language model, and was given str"):
        assay.attribute(name, POOL, TASKS, "icp")
    assert folder_of(server(port)).name == "answers"


def test_guard_asks_a_server_as_it_asks_a_model(port: int, bytes_model: Path) -> None:
    documents = [{"text": one.text, "label": label} for one, label in zip(POOL[:2], ("a", "b"), strict=True)]
    given: dict[str, Any] = {"documents": documents, "queries": TASKS, "lam": 0.01, "tokens": 4, "introspect": True}
    expected = assay.guard(assay.load(bytes_model), **given)
    for tokenizer in (None, str(bytes_model)):
        found = assay.guard(server(port, tokenizer=tokenizer), **given)
        for one, other in zip(found.verdicts, expected.verdicts, strict=True):
            assert (one.label, one.minimal, one.documents) == (other.label, other.minimal, other.documents)
            assert (one.drop, one.likelihood) == pytest.approx((other.drop, other.likelihood), abs=1e-4)
            assert one.visited == other.visited


def test_guard_hears_from_a_server_what_the_model_would_choose(port: int, bytes_model: Path) -> None:
    """Outputs of the model's own, whose choice changes without documents; lambda forbids nothing. A server that does not tell
    what is likeliest leaves it to lambda, and the verdict says so.
    """
    model = assay.load(bytes_model)
    documents = [{"text": one.text, "label": label} for one, label in zip(POOL[:2], ("a", "b"), strict=True)]
    queries, every = [], Prompt(AskedLocal(model), tuple(one.text for one in POOL[:2]), "", "{document}\n\n")
    for question in ("the cat sat", "hello who", "the dog"):
        whole, tokens = replace(every, question=question), 0
        while tokens < 12:  # until the choice of the model given nothing is another
            tokens += 1
            written = whole.generate((0, 1), tokens)
            if written.isascii() and whole.read(written, [(0, 1)])[0].first != whole.read(written, [()])[0].first:
                queries.append({"prompt": question, "completion": written})
                break
    given: dict[str, Any] = {"documents": documents, "queries": queries, "lam": 50.0, "tokens": 2, "search": "exact"}
    expected = assay.guard(model, **given).verdicts
    assert {verdict.label for verdict in expected} != {"{}"}
    assert all(verdict.note is None for verdict in expected)
    for way, tokenizer in itertools.product(("echo", "prompt"), (None, str(bytes_model))):
        for _ in range(2):  # the second time from kept answers
            found = assay.guard(server(port, way, tokenizer=tokenizer), **given).verdicts
            assert [one.minimal for one in found] == [one.minimal for one in expected]
            assert all(one.note is None for one in found)
    for way in ("bare", "partly"):
        for one in assay.guard(server(port, way), **given).verdicts:
            assert one.label == "{}"
            assert one.note is not None
            assert "does not tell which tokens are likeliest" in one.note


def test_answers_of_an_earlier_format_are_asked_again(port: int, tmp_path: Path) -> None:
    """A file as version 2 left it, whose rows would be read as something else."""
    asked = server(port, answers=tmp_path / "kept")
    (tmp_path / "kept").mkdir()
    path = tmp_path / "kept" / f"{asked.fingerprint()[:32]}.sqlite"
    base = sqlite3.connect(path)
    base.execute(
        "CREATE TABLE likelihoods (key BLOB PRIMARY KEY, logs BLOB NOT NULL, lead INTEGER NOT NULL) WITHOUT ROWID"
    )
    base.execute("INSERT INTO likelihoods VALUES (?, ?, ?)", (b"probe", np.array([-99.0]).tobytes(), 0))
    base.commit()
    base.close()
    request = Request("the cat sat on the mat", 4)
    with Session(asked) as session:
        (fresh,) = session.each([request])
        assert (session.sent, session.reused) == (1, 0)
    with Session(asked) as session:
        assert session.each([request]) == [fresh]
        assert (session.sent, session.reused) == (0, 1)
    assert fresh.first is not None
    base = sqlite3.connect(path)
    assert base.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall() == [("answers_3",)]
    base.execute("UPDATE answers_3 SET first = NULL")  # kept while the server told less
    base.commit()
    base.close()
    with Session(asked) as session:
        assert session.each([request]) == [fresh]
        assert (session.sent, session.reused) == (1, 0)


@pytest.mark.parametrize("command", ["guard", "icp"])
@pytest.mark.parametrize("way", ["down", "stalls", "html", "nan", "generated", "ignores", "locked", "nobody"])
def test_commands_end_with_one_message_and_leave_nothing(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, command: str
) -> None:
    monkeypatch.setattr("assay.inference.client._backoff", lambda state: 0.01)
    rows = write(tmp_path / "rows.jsonl", [{"text": "the cat sat", "label": "a"}])
    asked = write(tmp_path / "asked.jsonl", [dict(one.data) for one in TASKS])
    name, out = f"server:http://127.0.0.1:{1 if way == 'nobody' else port}/{way}/v1#tiny", tmp_path / "out"
    given = ["--documents", rows, "--queries", asked] if command == "guard" else ["--train", rows, "--on", asked]
    words = ["guard"] if command == "guard" else ["value", "--method", "icp"]
    says = {"locked": ["ASSAY_API_KEY is not set"], "nobody": ["cannot be reached"], "down": ["asked 6 times"],
            "stalls": ["0.1 seconds"]}.get(way, BAD.get(way, []))  # fmt: skip
    timeout = "0.1" if way == "stalls" else "20"
    refused(words[0], name, *words[1:], *given, "--timeout", timeout, "--out", out, names=says)
    assert not out.exists()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["asked.jsonl", "rows.jsonl"]
