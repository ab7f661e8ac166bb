"""Folds against loops, with groups of unequal sizes; sentences and layers."""

import numpy as np
import pytest
from tests.support import examples

from assay import folds
from assay.errors import InputError
from assay.folds import by_layer, by_sentence, layer_of, sentences
from assay.provenance import Provenance
from assay.ranking import TopK
from assay.scores import Scores
from assay.tasks import Token

ABOUT = Provenance(method="less", parameters={}, unit="arbitrary")
GROUPS = ["math", "code", "math", "math", "law", "code"]
TRAIN = examples(*({"text": f"row {k}", "source": s} for k, s in enumerate(["a", "b", "a", None, "b", "a", None])))
QUERIES = examples(*({"text": f"query {k}", "source": s} for k, s in enumerate(GROUPS)))


def scores() -> Scores:
    return Scores.of(np.random.randn(7, 6).astype(np.float32), TRAIN, QUERIES, ABOUT)


@pytest.mark.parametrize("fold", ["sum", "mean", "max"])
def test_over_groups_of_queries(fold: folds.Fold) -> None:
    given = scores()
    found = folds.queries(given, GROUPS, fold)
    assert list(found.query_ids) == ["math", "code", "law"]
    assert list(found.queries.texts) == ["3 queries", "2 queries", "1 queries"]
    for g, group in enumerate(found.query_ids):
        for i in range(7):
            members = [float(given.array[i, q]) for q in range(6) if GROUPS[q] == group]
            expected = {"sum": sum(members), "mean": sum(members) / len(members), "max": max(members)}[fold]
            assert found.array[i, g] == pytest.approx(expected, rel=1e-6)
    assert found.provenance == given.provenance


def test_groups_are_named_in_three_ways() -> None:
    given = scores()
    one = folds.queries(given, GROUPS)
    by_id = folds.queries(given, dict(zip(QUERIES.ids, GROUPS, strict=True)))
    np.testing.assert_array_equal(one.array, by_id.array)
    np.testing.assert_array_equal(one.array, folds.queries(given).array)


def test_the_subtask_that_an_example_helps_most() -> None:
    given = scores()
    found = folds.value(folds.queries(given, GROUPS), "max")
    for i in range(7):
        means = [np.mean([given.array[i, q] for q in range(6) if GROUPS[q] == g]) for g in ("math", "code", "law")]
        assert found.array[i] == pytest.approx(max(means), rel=1e-6)
    flat = folds.value(given, "mean")
    np.testing.assert_allclose(flat.array, given.array.mean(1, dtype=float))
    assert np.abs(flat.array - folds.value(folds.queries(given, GROUPS), "mean").array).max() > 1e-3  # unequal groups


def test_over_sources_sums_are_those_of_the_examples() -> None:
    given = scores()
    found = folds.sources(given)
    assert list(found.train_ids) == ["a", "b", folds.NO_SOURCE]
    np.testing.assert_allclose(found.array.sum(0), given.array.sum(0, dtype=float), rtol=1e-5)
    frame = given.by_source()
    np.testing.assert_allclose(found.array.T.ravel(), frame["score"], rtol=1e-5)
    assert folds.sources(given, "max").array[0, 0] == given.array[[0, 2, 5], 0].max()


def test_what_cannot_be_folded_is_refused_in_words() -> None:
    with pytest.raises(InputError, match="Each of the 6 queries needs a group, and 2 were given"):
        folds.queries(scores(), ["a", "b"])
    with pytest.raises(InputError, match=f"'{QUERIES.ids[1]}' has none"):
        folds.queries(scores(), {QUERIES.ids[0]: "a"})
    best = TopK.of_columns((column for column in scores().array.T), 2)
    with pytest.raises(InputError, match="top=None"):
        folds.value(Scores.of(best, TRAIN, QUERIES, ABOUT))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two!  Three", ["One. ", "Two!  ", "Three"]),
        ('He said "no." Then\nhe left...', ['He said "no." ', "Then\n", "he left..."]),
        ("3.14 is pi? Yes.", ["3.14 is pi? ", "Yes."]),
        ("猫です。犬です。", ["猫です。", "犬です。"]),
        ("no end", ["no end"]),
        ("", []),
    ],
)
def test_sentences_are_the_whole_text(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in sentences(text)] == expected


def test_tokens_go_to_the_sentence_of_their_last_visible_character() -> None:
    pieces = ["<s>", "One", ".", " Two", " a. b", " c", "</s>"]
    tokens, place = [], 0
    for piece in pieces:
        size = 0 if piece.startswith("<") else len(piece)
        tokens.append(Token(piece, place, place + size, True))
        place += size
    wholes, scores = by_sentence(tokens, np.array([0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0]))
    assert [(w.text, w.start, w.end) for w in wholes] == [
        ("One.", 0, 4), (" Two", 4, 8), (" a. b c", 8, 15)
    ]  # fmt: skip
    assert scores.tolist() == [3.5, 4.0, 56.0]


def test_layers() -> None:
    names = [
        "model.embed_tokens",
        "model.layers.10.mlp.up_proj",
        "model.layers.10.norm.weight",
        "model.norm.weight",
        "weight",
    ]
    assert [layer_of(name) for name in names] == [
        "model.embed_tokens", "model.layers.10", "model.layers.10", "model.norm", "weight"
    ]  # fmt: skip
    layers, scores = by_layer(names, np.array([1.0, 2.0, 4.0, 8.0, 16.0]))
    assert layers == ["model.embed_tokens", "model.layers.10", "model.norm", "weight"]
    assert scores.tolist() == [1.0, 6.0, 8.0, 16.0]
