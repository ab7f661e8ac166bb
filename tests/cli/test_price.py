"""The three-party workflow at the command line: separate folders with nothing in common but what was exported."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.cli.helpers import json_lines, refused, run, write
from tests.students import sentences

import assay
from assay.act.price import load_offer
from assay.methods import ALinFiK

TARGETS = ({"text": "the cat sat on the mat"}, {"text": "a cat saw the tree"})


@pytest.fixture(scope="module")
def market(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """owner/ with model, sample and targets; north/ and south/ with data; and the scorer, exported by the owner."""
    root = tmp_path_factory.mktemp("market")
    for name in ("owner", "north", "south"):
        (root / name).mkdir()
    shutil.copytree(model, root / "owner" / "model")
    rows = [{"text": text, "source": f"s{k % 3}"} for k, text in enumerate(sentences(60))]
    write(root / "owner" / "sample.jsonl", rows)
    write(root / "owner" / "targets.jsonl", TARGETS)
    write(
        root / "north" / "data.jsonl", [{"id": f"private {k}", "text": text} for k, text in enumerate(sentences(20, 7))]
    )
    write(
        root / "south" / "data.jsonl", [{"text": text} for text in [*sentences(12, 8), "Der Zweck heiligt die Mittel"]]
    )
    owner = root / "owner"
    told = run("value", owner / "model", "--train", owner / "sample.jsonl", "--on", owner / "targets.jsonl", "-m", "alinfik",
               "--step", "plain", "--sampled", 1, "--export", owner / "scorer", "--out", owner / "run")  # fmt: skip
    assert "Scorer saved" in told.stderr
    return root


def offer_of(market: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In the provider's folder, with the scorer alone."""
    folder = market / name
    if not (folder / "scorer").exists():
        shutil.copytree(market / "owner" / "scorer", folder / "scorer")
        monkeypatch.chdir(folder)
        run("value", "--scorer", "scorer", "--on", "data.jsonl", "--provider", name, "--out", "offer")
        shutil.copytree(folder / "offer", market / "owner" / "offers" / name)
    return market / "owner" / "offers" / name


def test_the_owner_exports_what_his_values_come_from(market: Path) -> None:
    owner = market / "owner"
    values = assay.Values.load(owner / "run")
    expected = ALinFiK(sampled=1, step="plain").distil(
        assay.load(owner / "model"), assay.read(owner / "sample.jsonl"), assay.read(owner / "targets.jsonl")
    )
    np.testing.assert_allclose(values.array, expected.values.array, rtol=1e-5)
    content = b"".join(file.read_bytes() for file in (owner / "scorer").iterdir())
    assert not any(text[:15].encode() in content for text in sentences(60))
    assert b"targets.jsonl" not in content
    assert str(market).encode() not in content


def test_a_provider_hands_over_values_and_no_text(market: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = offer_of(market, "north", monkeypatch)
    assert {file.name for file in place.iterdir()} == {"offer.json", "values.parquet"}
    content = b"".join(file.read_bytes() for file in place.iterdir())
    assert b"private" not in content
    assert not any(text[:15].encode() in content for text in sentences(20, 7))
    made = json.loads((place / "offer.json").read_text("utf-8"))
    assert made["provider"] == "north"
    assert made["scorer"] == json.loads((market / "owner" / "scorer" / "scorer.json").read_text("utf-8"))["checksum"]
    assert made["data"]["file"]["bytes"] == (market / "north" / "data.jsonl").stat().st_size
    assert made["summary"]["rows"] == 20


def test_the_owner_ranks_and_prices(market: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offers = [offer_of(market, name, monkeypatch) for name in ("north", "south")]
    assert load_offer(offers[1]).summary()["counted"] == 12  # not the row in another language
    monkeypatch.chdir(market / "owner")
    out = market / "owner" / "prices.csv"
    lines = json_lines(run("price", *offers, "--budget", 1000, "--scorer", "scorer", "--out", out, "--json"))
    prices = {line["provider"]: line["price"] for line in lines[:-1]}
    assert sum(prices.values()) == pytest.approx(1000 if any(prices.values()) else 0)
    assert lines[-1]["split"]["budget"] == 1000
    assert out.read_text("utf-8").splitlines()[0].startswith("provider,")
    page = run("price", *offers, "--budget", 1000).stdout
    assert "north" in page
    assert "price (95%)" in page


def test_delivered_data_are_checked_and_trained_on(market: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offers = [offer_of(market, name, monkeypatch) for name in ("north", "south")]
    owner = market / "owner"
    monkeypatch.chdir(owner)
    files = [word for name in ("north", "south") for word in ("--data", market / name / "data.jsonl")]
    (owner / "recipe.json").write_text(json.dumps({"optimizer": "sgd", "lr": 0.01, "batch_size": 8, "model": "model"}))
    words = ("price", *offers, "--budget", 100, "--scorer", "scorer", "--check", "recipe.json", "--on", "targets.jsonl")
    lines = json_lines(run(*words, *files, "--json"))
    rows = lines[-1]["check"]["providers"]
    assert {row["provider"] for row in rows} == {"north", "south"}
    assert all(np.isfinite(row["retrained"]) for row in rows)
    assert "trained again" in run(*words, *files, "--cache", owner / "trainings").stdout
    refused(*words, "--data", market / "north" / "data.jsonl", names=["south"])
    write(owner / "other.jsonl", [{"text": text} for text in sentences(13, 8)])
    refused(*words, *files[:2], "--data", "other.jsonl", names=["south", "fingerprint"])
    refused("price", *offers, "--budget", 100, "--check", "recipe.json", names=["--data"])
    refused("price", *offers, "--budget", 100, *files, names=["--scorer"])


def test_what_providers_may_get_wrong(market: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scorer = market / "owner" / "scorer"
    words = ("value", "--scorer", scorer, "--provider", "me", "--out", tmp_path / "offer")
    refused(*words, "--on", write(tmp_path / "no-text.jsonl", [{"title": "a"}]), names=["text"])
    refused(*words, "--on", write(tmp_path / "empty.jsonl", []), names=["empty.jsonl"])
    refused(*words, "--on", write(tmp_path / "far.jsonl", [{"text": "Über allen Gipfeln ist Ruh"}]), names=["unlike"])
    refused(*words, names=["--on FILE"])
    refused("value", "--scorer", scorer, "--on", market / "north" / "data.jsonl", names=["--provider NAME"])
    refused("value", "model", *words[1:], "--on", market / "north" / "data.jsonl", names=["leave the rest out"])
    refused(*words, "--method", "bm25", "--on", market / "north" / "data.jsonl", names=["leave the rest out"])
    refused(
        "value",
        "--scorer",
        tmp_path,
        "--provider",
        "me",
        "--on",
        market / "north" / "data.jsonl",
        names=["scorer.json"],
    )
    assert not (tmp_path / "offer").exists()
    changed = tmp_path / "changed"
    shutil.copytree(scorer, changed)
    path = changed / "scorer.json"
    path.write_text(path.read_text("utf-8").replace('"rows": 60', '"rows": 61'), "utf-8")
    refused(
        "value", "--scorer", changed, "--provider", "me", "--on", market / "north" / "data.jsonl", names=["checksum"]
    )


def test_what_owners_may_get_wrong(market: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    owner, offer = market / "owner", offer_of(market, "north", monkeypatch)
    data = ("--train", owner / "sample.jsonl", "--on", owner / "targets.jsonl")
    refused("value", owner / "model", *data, "-m", "linfik", "--export", tmp_path / "scorer", names=["alinfik"])
    (tmp_path / "letter.txt").write_text("dear")
    refused("value", owner / "model", *data, "-m", "alinfik", "--export", tmp_path, names=["letter.txt"])
    refused("value", owner / "model", *data, "-m", "alinfik", "--sampled", 61, names=["61 of the 60"])
    refused("price", offer, "--budget", 0, names=["budget"])
    refused("price", offer, offer, "--budget", 10, names=["north"])
    refused("price", market / "north", "--budget", 10, names=["offer.json"])
