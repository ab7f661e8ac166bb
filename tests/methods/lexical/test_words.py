import pytest

import assay.examples as examples
from assay.errors import MethodError
from assay.methods.lexical.words import query_texts, train_texts, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat, the CAT_2!", ["the", "cat", "the", "cat_2"]),
        ("don't <b>x</b>", ["don", "t", "b", "x", "b"]),
        ("Ärger über Straße", ["ärger", "über", "straße"]),
        ("cafe\u0301", ["café"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("猫が好き cats", ["猫", "が", "好", "き", "cats"]),
        ("... \n\t 🦜", []),
        ("", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_parts_of_queries() -> None:
    completions = examples.read([{"prompt": "ask ", "completion": "answer"}])
    assert list(query_texts(completions, "whole", "bm25")) == ["ask answer"]
    assert list(query_texts(completions, "completion", "bm25")) == ["answer"]
    turns = [("user", "hi"), ("assistant", "one"), ("user", "and"), ("assistant", "two")]
    chat = examples.read([{"messages": [{"role": role, "content": content} for role, content in turns]}])
    assert list(query_texts(chat, "completion", "bm25")) == ["one\ntwo"]
    texts = examples.read([{"text": "plain"}])
    assert list(query_texts(texts, "completion", "bm25")) == list(query_texts(texts, "whole", "bm25")) == ["plain"]


def test_arrays_have_no_words() -> None:
    import numpy as np

    arrays = examples.read((np.zeros((2, 3)), np.zeros(2)))
    with pytest.raises(MethodError, match=r"tfidf compares words.*arrays"):
        train_texts(arrays, "tfidf")
    with pytest.raises(MethodError, match="arrays"):
        query_texts(arrays, "whole", "tfidf")
