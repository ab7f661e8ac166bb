"""`assay.guard` end to end: planted facts by a model that reads, brute force over what it asks, the command, and servers."""

import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.act.guard.support import WORDS, induction_model
from tests.cli.helpers import json_lines, refused, run, write
from tests.support import saved, text_model

import assay
from assay.act.guard import calibrate, drops
from assay.act.guard.neighbours import SHARE, Datastore, Neighbours
from assay.act.guard.propagate import largest_drop
from assay.act.guard.scorers import AskedLocal, Prompt
from assay.errors import DataError, InputError, MethodError
from assay.models import Model

Case = tuple[list[dict[str, Any]], dict[str, str], int]
CHAIN = "public < internal < secret"


def case(seed: int, labels: list[str]) -> Case:
    """Documents `w1 is w2 .`, one of which the question asks for; the needed one's number."""
    draw = random.Random(seed)
    words = draw.sample(WORDS, 2 * len(labels))
    documents = [{"text": f"{words[2 * k]} is {words[2 * k + 1]} .", "label": labels[k]} for k in range(len(labels))]
    needed = draw.randrange(len(labels))
    return documents, {"prompt": f"{words[2 * needed]} is", "completion": f" {words[2 * needed + 1]} ."}, needed


@pytest.fixture(scope="module")
def reader() -> Model:
    return induction_model()


@pytest.mark.parametrize("search", ["descent", "exact", "greedy"])
@pytest.mark.parametrize("seed", range(5))
def test_the_needed_document_stays_and_the_others_go(reader: Model, search: Any, seed: int) -> None:
    documents, query, needed = case(seed, list("abcde"))
    (verdict,) = assay.guard(reader, documents, [query], search=search).verdicts
    label = documents[needed]["label"]
    assert (verdict.label, verdict.conservative) == (f"{{{label}}}", "{a, b, c, d, e}")
    assert verdict.improved
    assert len(verdict.documents) == 1
    assert verdict.output.startswith(query["completion"].strip())
    assert verdict.likelihood == pytest.approx(verdict.full, abs=1e-6)


def test_a_chain_two_copies_and_a_question_that_needs_nothing(reader: Model) -> None:
    documents, query, _ = case(1, ["secret", "internal", "public", "public"])
    documents[0]["text"] = f"{query['prompt']}{query['completion']}"
    documents[1]["text"] = documents[2]["text"] = documents[3]["text"] = "w0 is w0 ."
    assert assay.guard(reader, documents, [query], lattice=CHAIN).verdicts[0].label == "secret"
    documents[3]["text"] = documents[0]["text"]  # the same is known in public
    (verdict,) = assay.guard(reader, documents, [query], lattice=CHAIN).verdicts
    assert (verdict.label, verdict.documents[-1][-1]) == ("public", "4")
    unknown = {"prompt": "? ?", "completion": " ? ?"}
    (verdict,) = assay.guard(
        reader, [d | {"label": "secret"} for d in documents], [unknown], lattice="public < secret"
    ).verdicts
    assert (verdict.label, verdict.documents) == ("public", ())
    (verdict,) = assay.guard(
        reader, documents, [unknown], lattice="a < b, public < b, internal < b, secret < b"
    ).verdicts
    assert verdict.label == "(nothing)"


@pytest.mark.parametrize("seed", range(4))
def test_exact_is_brute_force_over_the_powerset(seed: int) -> None:
    """A random Llama, whose likelihoods are not monotone: the same prompts, scored by hand."""
    model = text_model("Llama")
    draw = random.Random(seed)
    texts = draw.sample(["the cat", "a big dog", "hello", "who are you", "the red tree", "I saw"], 4)
    documents = [{"text": text, "label": name} for text, name in zip(texts, "abcd", strict=True)]
    query = {"prompt": "the dog", "completion": " sat on the mat"}
    for lam in (0.0, 0.05, 0.3):
        (verdict,) = assay.guard(model, documents, [query], search="exact", lam=lam, tokens=3).verdicts
        scores = dict[frozenset[int], np.ndarray]()
        for chosen in itertools.chain.from_iterable(itertools.combinations(range(4), n) for n in range(5)):
            prompt = "".join(f"{texts[k]}\n\n" for k in chosen) + query["prompt"]
            ids = model.task.tokenizer(prompt + query["completion"])["input_ids"]  # type: ignore[attr-defined]
            with torch.no_grad():
                logp = model.module(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
            scores[frozenset(chosen)] = np.array([logp[t - 1, ids[t]] for t in range(len(ids) - 4, len(ids))])
        full = scores[frozenset(range(4))]
        lost = {chosen: max(full - some) for chosen, some in scores.items()}
        good = [chosen for chosen, most in lost.items() if most <= lam]
        minimal = [one for one in good if not any(other < one for other in good)]
        assert set(verdict.minimal) == {"{" + ", ".join("abcd"[k] for k in sorted(one)) + "}" for one in minimal}
        best = min(minimal, key=lambda one: lost[one])
        assert verdict.drop == pytest.approx(lost[best], abs=1e-5)
        assert verdict.likelihood == pytest.approx(scores[best].mean(), abs=1e-5)
        assert verdict.full == pytest.approx(full.mean(), abs=1e-5)
        assert verdict.documents == tuple(verdict.retrieved[k] for k in sorted(best))


def test_one_word_in_a_long_output_keeps_its_document(reader: Model) -> None:
    """The mean over tokens loses little, a hundredth of the word's loss; the worst token all of it."""
    documents, query, needed = case(4, list("abc"))
    long = {"prompt": query["prompt"], "completion": query["completion"] + " ? ? ." * 33}
    (verdict,) = assay.guard(reader, documents, [long], lam=0.5, tokens=4).verdicts
    assert verdict.label == f"{{{documents[needed]['label']}}}"
    kept = tuple(k for k in range(3) if k != needed)
    prompt = Prompt(AskedLocal(reader), tuple(d["text"] for d in documents), long["prompt"], "{document}\n\n")
    full, without = prompt.logs(long["completion"], [(0, 1, 2), kept])
    assert 0 < (full - without).mean() < 0.1 < 0.5 < (full - without).max()


def test_a_larger_lambda_goes_lower_by_a_model_that_was_not_made_for_it() -> None:
    model, texts = text_model("Llama"), ["the cat", "a big dog", "hello", "who are you"]
    documents = [{"text": text, "label": name} for text, name in zip(texts, "abcd", strict=True)]
    query = {"prompt": "the dog", "completion": " sat on the mat"}
    found = [
        [frozenset(one.strip("{}").split(", ")) - {""} for one in verdict.minimal]
        for lam in (0.0, 0.05, 0.1, 0.2, 3.0)
        for verdict in assay.guard(model, documents, [query], lam=lam, tokens=2).verdicts
    ]
    assert found[-1] == [frozenset()] != found[0]
    for smaller, larger in itertools.pairwise(found):
        assert all(any(low <= label for low in larger) for label in smaller)


def test_the_largest_drop() -> None:
    full, some = np.array([-1.0, -2.0, -3.0]), np.array([-1.5, -1.0, -3.0])
    assert largest_drop(full, some) == 0.5
    assert largest_drop(some, full) == 1.0
    assert largest_drop(full, full + 1) == -1.0
    assert largest_drop(full, np.array([-np.inf, -2.0, -3.0])) == np.inf
    assert largest_drop(np.array([-np.inf, -2.0]), np.array([-np.inf, -3.0])) == 1.0
    assert largest_drop(np.array([-np.inf]), np.array([-np.inf])) == 0.0
    with pytest.raises(MethodError, match="3 tokens behind all documents and 2 behind some"):
        largest_drop(full, some[1:])


def test_the_output_is_made_from_what_is_allowed_alone(reader: Model) -> None:
    """The text of a document above the label can be anything; nothing that is given out changes."""
    documents, query, needed = case(3, ["public", "secret", "secret", "public"])
    documents[needed]["label"] = "public"
    first = assay.guard(reader, documents, [query], lattice="public < secret").verdicts[0]
    assert first.label == "public"
    for document in documents:
        if document["label"] == "secret":
            document["text"] = "w59 is w58 ."
    second = assay.guard(reader, documents, [query], lattice="public < secret").verdicts[0]
    assert (first.output, first.documents, first.likelihood) == (second.output, second.documents, second.likelihood)


def test_many_irrelevant_documents_make_the_search_greedy(reader: Model) -> None:
    documents, query, needed = case(0, list("abcdef"))
    (verdict,) = assay.guard(reader, documents, [query], visits=10).verdicts
    assert verdict.note is not None
    assert "More than 10 labels" in verdict.note
    assert verdict.label == f"{{{documents[needed]['label']}}}"
    with pytest.raises(InputError, match="more than 10 labels"):
        assay.guard(reader, documents, [query], visits=10, search="exact")


def test_retrieval_keeps_the_best_by_words(reader: Model) -> None:
    documents, query, needed = case(2, list("abcdef"))
    (verdict,) = assay.guard(reader, documents, [query], retrieve=2).verdicts
    assert len(verdict.retrieved) == 2
    assert verdict.label == f"{{{documents[needed]['label']}}}"


def test_lambda_from_known_cases(reader: Model) -> None:
    cases = [case(seed, list("abc")) for seed in range(6)]
    found = drops(reader, [c[0] for c in cases], [c[1] for c in cases], [c[2] for c in cases])
    lam = calibrate(found)
    assert found.irrelevant.max() <= lam < found.needed.min()
    with pytest.raises(MethodError, match="does not use the documents"):
        calibrate(type(found)(found.irrelevant, -found.needed))
    with pytest.raises(InputError, match="on no case"):
        calibrate(type(found)(found.irrelevant[:0], found.needed[:0]))


# -- the nearest-neighbour model ---------------------------------------------------------------------------------------


def test_neighbours_are_the_formula_and_a_mask_is_as_if_never_stored() -> None:
    model = text_model("Llama")
    texts, question, output = (
        ("the cat sat on the mat", "a big red dog ran", "the dog saw a tree"),
        "the cat",
        " sat on",
    )
    store = Datastore.of(model, texts)
    scorer = Neighbours(model, store, question)

    def states(text: str) -> tuple[torch.Tensor, list[int]]:
        ids = model.task.tokenizer(text)["input_ids"]  # type: ignore[attr-defined]
        with torch.no_grad():
            return model.module(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0], ids

    asked, ids = states(question + output)
    keys = torch.cat([states(text)[0][:-1] for text in texts])
    spread = float((keys - keys.mean(0)).square().sum(1).mean())
    with torch.no_grad():
        own = model.module(input_ids=torch.tensor([ids])).logits[0].softmax(-1)
    for kept in [(0, 1, 2), (1,), (0, 2), ()]:
        entries = [(k, v) for n in kept for k, v in zip(states(texts[n])[0][:-1], states(texts[n])[1][1:], strict=True)]
        terms = []
        for t in (len(ids) - 2, len(ids) - 1):
            p = float(own[t - 1, ids[t]])
            if entries:
                near = sorted((float((asked[t - 1] - k).square().sum()) / spread, v) for k, v in entries)[:16]
                weights = np.exp(-np.array([d for d, _ in near]) / 0.1)
                vote = float(sum(w for w, (_, v) in zip(weights, near, strict=True) if v == ids[t]) / weights.sum())
                p = (1 - SHARE) * p + SHARE * vote
            terms.append(np.log(p))
        np.testing.assert_allclose(scorer.logs(output, [kept])[0], terms, atol=1e-6)
    (verdict,) = assay.guard(
        model, [{"text": t, "source": s} for t, s in zip(texts, "abc", strict=True)],
        [{"prompt": question, "completion": output}], mode="neighbours", lam=0.2, tokens=4,
    ).verdicts  # fmt: skip
    assert verdict.visited <= 8
    assert len(verdict.output.split()) <= 4


# -- what is refused, the command, servers -----------------------------------------------------------------------------


def test_bad_input_is_told_in_words(reader: Model) -> None:
    documents, query, _ = case(0, ["public", "secret"])
    wrong: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (
            InputError,
            "label 'top', which the lattice does not have",
            {"documents": [*documents, {"text": "w", "label": "top"}]},
        ),
        (DataError, "has no label and no source", {"documents": [{"text": "w1"}]}),
        (InputError, "Question r asks nothing", {"queries": [{"prompt": " ", "completion": "w1", "id": "r"}]}),
        (MethodError, "lambda is -1", {"lam": -1.0}),
        (MethodError, "retrieve is 0", {"retrieve": 0}),
        (MethodError, "does not say where the document stands", {"template": "x"}),
        (MethodError, "was given NoneType", {"model": None}),
        (MethodError, "a server does not give", {"model": assay.Server("http://host/v1", "m"), "mode": "neighbours"}),
        (DataError, "kind 'messages'", {"queries": [{"messages": [{"role": "user", "content": "w1"}]}]}),
        (DataError, "nothing may be cut", {"documents": [{"text": "w1 " * 600, "label": "public"}]}),
    ]
    for kind, says, changes in wrong:
        given: dict[str, Any] = {
            "model": reader,
            "documents": documents,
            "queries": [query],
            "lattice": "public < secret",
        }
        with pytest.raises(kind, match=says):
            assay.guard(**given | changes)


def test_the_command(tmp_path: Path) -> None:
    model = saved("Llama", tmp_path / "model")
    rows = [{"text": "the cat sat", "label": "public", "id": "p"}, {"text": "a big dog", "label": "secret", "id": "s"}]
    documents = write(tmp_path / "documents.jsonl", rows)
    queries = write(tmp_path / "queries.jsonl", [{"text": "the dog", "id": "q"}, {"text": "hello", "id": "r"}])
    words = ["guard", model, "--documents", documents, "--queries", queries, "--output-tokens", 4]
    found = json_lines(
        run(*words, "--lattice", CHAIN, "--lam", 5, "--introspect", "--out", tmp_path / "v.json", "--json")
    )
    assert [line["query_id"] for line in found[:2]] == ["q", "r"]
    assert found[0]["label"] == "public"
    assert found[0]["introspected"] in ("public", "secret")
    saved_run = json.loads((tmp_path / "v.json").read_text())
    assert saved_run["format"] == "assay-guard"
    assert saved_run["verdicts"][0]["output"] == found[0]["output"]
    assert "a big dog" not in json.dumps(saved_run)
    page = run(*words, "--lattice", CHAIN, "--out", tmp_path / "v.json").stdout
    assert "labels are below that of all documents" in " ".join(page.split())
    refused(*words, "--lattice", "public < internal", names=["label 'secret'", "documents", "s"][:1])
    refused(*words, "--lattice", "a < b, c < d", names=["no join-semilattice"])
    refused(*words, "--out", documents, names=["nothing is overwritten"])
    refused("guard", "--documents", documents, "--queries", queries, names=["No model was given"])
    refused("guard", "server:http://127.0.0.1:9/v1#m", *words[2:], "--lattice", CHAIN, names=["cannot be reached"])


def test_the_scorer_and_the_whole_prompt_agree() -> None:
    scorer = Prompt(AskedLocal(text_model("Llama")), ("the cat", "a dog"), "hello", "{document} . ")
    assert scorer.prompt((1,)) == "a dog . hello"
    one, two = scorer.logs(" who are you", [(0,), (0, 1)])
    assert len(one) == len(two) == 3
    assert not np.allclose(one, two)
    np.testing.assert_allclose(scorer.logs(" who are you", [(0, 1)])[0], two, atol=1e-6)
