import numpy as np
import pytest

from assay.folds import by_layer, by_sentence, layer_of, sentences
from assay.tasks import Token


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
