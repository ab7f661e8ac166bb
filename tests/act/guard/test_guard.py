"""`assay.guard` end to end: planted facts by a model that reads, brute force over what it asks, the command, and servers."""

import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.act.guard.support import WORDS, NearlyTied, induction_model, worded
from tests.cli.helpers import json_lines, refused, run, write
from tests.support import saved, text_model

import assay
from assay.act.guard import Drops, Lattice, calibrate, drops, parse_lattice
from assay.act.guard.neighbours import SHARE, Datastore, Neighbours
from assay.act.guard.propagate import Look, Settings, largest_drop, stays_first
from assay.act.guard.scorers import AskedLocal, Kept, Prompt, Scorer
from assay.errors import DataError, InputError, MethodError
from assay.inference import Likelihood
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
    assert verdict.output.startswith(query["completion"])
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
    """A random Llama, whose likelihoods are not monotone: the same prompts, scored by hand. The first output is the model's own,
    so that each of its tokens must stay the choice; of the second no token is.
    """
    model = text_model("Llama")
    draw = random.Random(seed)
    texts = draw.sample(["the cat", "a big dog", "hello", "who are you", "the red tree", "I saw"], 4)
    documents = [{"text": text, "label": name} for text, name in zip(texts, "abcd", strict=True)]
    prompts = Prompt(AskedLocal(model), tuple(texts), "the dog", "{document}\n\n")
    own = prompts.generate((0, 1, 2, 3), 4)
    for output, lam in itertools.product((own, " sat on the mat"), (0.0, 0.05, 0.3, 9.0)):
        query = {"prompt": "the dog", "completion": output}
        (verdict,) = assay.guard(model, documents, [query], search="exact", lam=lam, tokens=3).verdicts
        scores, chosen_tokens = dict[frozenset[int], np.ndarray](), dict[frozenset[int], np.ndarray]()
        for chosen in itertools.chain.from_iterable(itertools.combinations(range(4), n) for n in range(5)):
            prompt = "".join(f"{texts[k]}\n\n" for k in chosen) + query["prompt"]
            ids = model.task.tokenizer(prompt + query["completion"])["input_ids"]  # type: ignore[attr-defined]
            with torch.no_grad():
                logp = model.module(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
            places = range(len(ids) - 4, len(ids))
            scores[frozenset(chosen)] = np.array([logp[t - 1, ids[t]] for t in places])
            chosen_tokens[frozenset(chosen)] = np.array([int(logp[t - 1].argmax()) == ids[t] for t in places])
        full, wanted = scores[frozenset(range(4))], chosen_tokens[frozenset(range(4))]
        assert wanted.all() if output == own else not wanted.all()
        lost = {chosen: max(full - some) for chosen, some in scores.items()}
        good = [chosen for chosen, most in lost.items() if most <= lam and chosen_tokens[chosen][wanted].all()]
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
    full, without = prompt.read(long["completion"], [(0, 1, 2), kept])
    assert 0 < full.mean - without.mean < 0.1 < 0.5 < largest_drop(full, without)


# -- the model's choice ------------------------------------------------------------------------------------------------


class Told(Scorer):
    """Any likelihoods and choices, by the documents."""

    def __init__(self, documents: int, seed: int) -> None:
        draw = random.Random(seed)
        each = itertools.chain.from_iterable(itertools.combinations(range(documents), n) for n in range(documents + 1))
        self.told = {
            kept: Likelihood(
                tuple(draw.uniform(-1, 0) for _ in range(3)), first=tuple(draw.random() < 0.8 for _ in range(3))
            )
            for kept in each
        }

    def read(self, output: str, kept: Any) -> list[Likelihood]:
        return [self.told[one] for one in kept]

    def generate(self, kept: Kept, tokens: int) -> str:
        raise NotImplementedError


LATTICES = {"powerset": "abcd", "a < b < c < d": "abcd", "low < a < high, low < b < high": ["low", "a", "b", "high"]}


def by_definition(told: Told, lattice: Lattice, labels: list[Any], top: Any, lam: float) -> set[str]:
    """All minimal labels, by both conditions as they stand in the page."""
    full = told.told[tuple(range(len(labels)))]
    assert full.first is not None
    good: list[Any] = []
    for label in lattice.down(top):
        some = told.told[tuple(k for k, one in enumerate(labels) if lattice.at_most(one, label))]
        assert some.first is not None
        losses = [full.values[t] - some.values[t] <= lam for t in range(3)]
        flips = [full.first[t] and not some.first[t] for t in range(3)]
        if all(losses) and not any(flips):
            good.append(label)
    return {lattice.show(one) for one in good if not any(o != one and lattice.at_most(o, one) for o in good)}


@pytest.mark.parametrize("text", LATTICES)
def test_both_conditions_are_brute_force_on_small_lattices(text: str) -> None:
    """And at a larger lambda labels are at or below, whatever the model chooses."""
    lattice = parse_lattice(text)
    labels = [lattice.parse(one, "a label") for one in LATTICES[text]]
    top, smaller = lattice.join(labels), 0
    for seed in range(12):
        told, before = Told(len(labels), seed), None
        for lam in (0.0, 0.2, 0.5, 0.9, 5.0):
            settings = Settings(lam=lam, search="exact")
            found, _ = Look(told, "", lattice, labels, settings).minimal(top)
            assert {lattice.show(one) for one in found} == by_definition(told, lattice, labels, top, lam)
            down, _ = Look(told, "", lattice, labels, Settings(lam=lam)).minimal(top)
            assert all(any(lattice.at_most(low, one) for low in found) for one in down)
            for old, new in ((before or (found, down))[0], found), ((before or (found, down))[1], down):
                assert all(any(lattice.at_most(low, one) for low in new) for one in old)
            before = found, down
        alone, _ = Look(told, "", lattice, labels, Settings(lam=5.0, search="exact")).minimal(top)
        smaller += all(lattice.show(one) != lattice.show(lattice.bottom) for one in alone)
    assert smaller > 0  # lambda forbids nothing there: the choice alone did


def test_a_document_that_decides_between_two_nearly_equal_words_is_kept() -> None:
    """It costs the word 0.01 nats: no lambda above would keep it, and none that is below tells it from noise."""
    model = worded(NearlyTied())
    documents = [{"text": "w1 .", "label": "secret"}, {"text": "w4 .", "label": "public"}]
    query = {"text": "w5 is"}
    (verdict,) = assay.guard(model, documents, [query], lattice="public < secret", tokens=1, lam=0.5).verdicts
    assert (verdict.output, verdict.label, verdict.improved) == (" w2", "secret", False)
    prompt = Prompt(AskedLocal(model), ("w1 .", "w4 ."), "w5 is", "{document} ")
    full, without = prompt.read(" w2", [(0, 1), (1,)])
    assert 0.005 < largest_drop(full, without) < 0.05
    assert not stays_first(full, without)
    # the word that the model does not choose has nothing to stay
    (verdict,) = assay.guard(
        model, documents, [{"prompt": "w5 is", "completion": " w4"}], lattice="public < secret", tokens=1, lam=0.5
    ).verdicts
    assert verdict.label == "public"
    # and the same document is not needed where a public one says it as well
    documents[1]["text"] = "w1 w4 ."
    (verdict,) = assay.guard(model, documents, [query], lattice="public < secret", tokens=1, lam=0.5).verdicts
    assert (verdict.output, verdict.label) == (" w2", "public")


def test_what_stays_first() -> None:
    def one(*first: bool) -> Likelihood:
        return Likelihood((-1.0,) * len(first), first=first)

    assert stays_first(one(True, False), one(True, False))
    assert stays_first(one(True, False), one(True, True))
    assert not stays_first(one(True, False), one(False, True))
    assert stays_first(one(False, False), one(False, False))
    assert stays_first(Likelihood((-1.0, -1.0)), one(False, False))  # nobody tells
    assert stays_first(one(True, True), Likelihood((-1.0, -1.0)))


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
    full, some, never = Likelihood((-1.0, -2.0, -3.0)), Likelihood((-1.5, -1.0, -3.0)), -np.inf
    assert largest_drop(full, some) == 0.5
    assert largest_drop(some, full) == 1.0
    assert largest_drop(full, Likelihood((-0.0, -1.0, -2.0))) == -1.0
    assert largest_drop(full, Likelihood((never, -2.0, -3.0))) == np.inf
    assert largest_drop(Likelihood((never, -2.0)), Likelihood((never, -3.0))) == 1.0
    assert largest_drop(Likelihood((never,)), Likelihood((never,))) == 0.0
    with pytest.raises(MethodError, match="3 tokens behind all documents and 2 behind some"):
        largest_drop(full, Likelihood((-1.0, -3.0)))


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
        calibrate(Drops(found.irrelevant, -found.needed, -found.needed))
    with pytest.raises(InputError, match="on no case"):
        calibrate(Drops(found.irrelevant[:0], found.needed[:0], found.unnoticed[:0]))


def test_drops_are_of_both_conditions() -> None:
    """By hand: the needed document is `w1`, whose loss is a hair and whose choice is noticed wherever it is missing."""
    model, hair = worded(NearlyTied(0.2)), 0.2
    texts = [["w1 .", "w4 .", "w6 ."], ["w4 .", "w1 ."], ["w1 ."]]
    queries = [
        {"prompt": "w5 is", "completion": " w2"},
        {"prompt": "w5 is", "completion": " w4"},
        {"prompt": "w5 is", "completion": " w2"},
    ]
    found = drops(model, texts, queries, [0, 1, 0])
    total = {sign: np.exp(9.0) + np.exp(9.0 + sign * hair) + 64 for sign in (1, -1)}
    expected = 2 * hair + np.log(total[-1] / total[1])
    np.testing.assert_allclose(found.irrelevant, 0.0, atol=1e-12)
    np.testing.assert_allclose(found.needed, [expected, np.log(total[-1] / total[1]), expected], atol=1e-6)
    np.testing.assert_allclose(found.unnoticed, [np.inf, np.log(total[-1] / total[1]), np.inf], atol=1e-6)
    drawn = drops(model, texts[:1], queries[:1], [1])  # the needed document is not enough: the choice changes
    assert np.isinf(drawn.irrelevant).all()


@pytest.mark.parametrize(
    ("irrelevant", "needed", "unnoticed", "lam"),
    [
        ([0.1, 0.2], [1.0, 2.0], [1.0, np.inf], 0.35),  # likelihood alone tells them apart: midway to half of 1.0
        ([0.1, 2.0], [1.0, 4.0], [np.inf, np.inf], 2.0),  # they overlap, and each choice is noticed
        ([0.1, 2.0], [1.0, 4.0], [np.inf, 3.0], 1.5),  # one is not noticed, and limits
        ([0.1, 2.0], [1.0, 4.0], [1.0, 4.0], 0.5),  # none is: as before there were choices
        ([0.3, np.inf], [0.2, 0.4], [np.inf, np.inf], 0.3),  # what no lambda makes smaller does not count
        ([-0.5, -0.1], [-1.0, 0.4], [np.inf, 0.4], 0.0),
    ],
)
def test_calibration_by_hand(irrelevant: list[float], needed: list[float], unnoticed: list[float], lam: float) -> None:
    found = Drops(np.array(irrelevant), np.array(needed), np.array(unnoticed))
    assert calibrate(found) == pytest.approx(lam)
    with pytest.raises(MethodError, match="no lambda makes a label"):
        calibrate(Drops(np.full(2, np.inf), found.needed, found.unnoticed))


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
    seen: set[bool] = set()
    for kept in [(0, 1, 2), (1,), (0, 2), ()]:
        entries = [(k, v) for n in kept for k, v in zip(states(texts[n])[0][:-1], states(texts[n])[1][1:], strict=True)]
        terms, firsts = [], []
        for t in (len(ids) - 2, len(ids) - 1):
            p, everything = float(own[t - 1, ids[t]]), own[t - 1].double().numpy()
            if entries:
                near = sorted((float((asked[t - 1] - k).square().sum()) / spread, v) for k, v in entries)[:16]
                weights = np.exp(-np.array([d for d, _ in near]) / 0.1)
                vote = float(sum(w for w, (_, v) in zip(weights, near, strict=True) if v == ids[t]) / weights.sum())
                p = (1 - SHARE) * p + SHARE * vote
                everything = (1 - SHARE) * everything
                for w, (_, v) in zip(weights, near, strict=True):
                    everything[v] += SHARE * w / weights.sum()
            terms.append(np.log(p))
            firsts.append(int(everything.argmax()) == ids[t])
        (found,) = scorer.read(output, [kept])
        np.testing.assert_allclose(found.values, terms, atol=1e-6)
        assert found.first == tuple(firsts)
        seen |= set(firsts)
    assert seen == {True, False}
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
    asked = [
        {"prompt": "the dog", "completion": " sat", "id": "q"},
        {"prompt": "hello", "completion": " you", "id": "r"},
    ]
    queries = write(tmp_path / "queries.jsonl", asked)
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
    one, two = scorer.read(" who are you", [(0,), (0, 1)])
    assert one.count == two.count == 3
    assert not np.allclose(one.values, two.values)
    np.testing.assert_allclose(scorer.read(" who are you", [(0, 1)])[0].values, two.values, atol=1e-6)
