import pytest
from markupsafe import Markup

from assay.explore.text import HEAD, Vocabulary, clipped, plain, shared, terms, visible


def words(text: str) -> frozenset[str]:
    return frozenset(term.word for term in terms(text))


def marked(query: str, text: str, corpus: list[str]) -> Markup:
    return clipped(text, 10_000, words(query), Vocabulary.of(corpus, whole=True)).head


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u202eb", "a⟦U+202E⟧b"),
        ("\u202a\u2066\u2069", "⟦U+202A⟧⟦U+2066⟧⟦U+2069⟧"),
        ("nul\x00\x00\x00!", "nul⟦U+0000 ×3⟧!"),
        ("\ud800", "⟦U+D800⟧"),
        ("\x1b[31m\x7f", "⟦U+001B⟧[31m⟦U+007F⟧"),
        ("zero\u200bwidth\ufeff\u00ad", "zero⟦U+200B⟧width⟦U+FEFF⟧⟦U+00AD⟧"),
        ("tag\U000e0041 \ufffe line\u2028", "tag⟦U+E0041⟧ ⟦U+FFFE⟧ line⟦U+2028⟧"),
        ("a\u200db\u200c", "a⟦U+200D⟧b⟦U+200C⟧"),
        ("x\ufe0f\ufe01", "x⟦U+FE0F⟧⟦U+FE01⟧"),
        ("a\tb\nc é ü 猫 👩\u200d💻 ❤\ufe0f 1\ufe0f می\u200cخواهم", None),
    ],
)
def test_what_cannot_be_seen_is_shown_by_its_code(text: str, shown: str | None) -> None:
    assert plain(text) == (text if shown is None else shown)
    assert visible(text).striptags() == Markup(plain(text)).striptags()
    plain(text).encode()


def test_markup_is_escaped_around_codes() -> None:
    assert visible("<b>\u202e&'\"") == ('&lt;b&gt;<span class="code">⟦U+202E⟧</span>&amp;&#39;&#34;')
    assert visible("abc<", 1, 2) == "b"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A Cat sat.", ["cat", "sat"]),
        ("STRASSE straße", ["strasse", "strasse"]),
        ("cafe\u0301 café", ["café", "café"]),
        ("猫が好き", ["猫が", "が好", "好き"]),
        ("I x 5, 猫 a", []),
    ],
)
def test_terms(text: str, found: list[str]) -> None:
    assert [term.word for term in terms(text)] == found


def test_shared_words_are_marked_and_common_ones_are_not() -> None:
    corpus = ["the dragon slept", *(f"the house {i} is big" for i in range(50)), *["a big town"] * 4]
    html = marked("The DRAGON is in the big town", "the dragon's town <i>", corpus)
    assert html == 'the <mark class="rare">dragon</mark>&#39;s <mark>town</mark> &lt;i&gt;'
    assert "<mark" not in marked("the is", "the is", corpus)


def test_neighbouring_marks_are_one() -> None:
    vocabulary = Vocabulary.of(["red dragon"], whole=True)
    assert shared(words("dragon red"), "a red  dragon, red", vocabulary) == [(2, 13, False), (15, 18, False)]
    assert shared(words("猫が好き"), "白猫が好きだ", vocabulary) == [(1, 5, True)]


def test_in_a_part_of_the_data_more_words_count_as_telling() -> None:
    texts = ["dragon fire"] * 4 + ["house"] * 6
    assert Vocabulary.of(texts, whole=True).common("dragon")
    assert not Vocabulary.of(texts, whole=False).common("dragon")


def test_long_texts_are_cut_with_counts() -> None:
    text = "word " * 200_000
    clip = clipped(text, 4_000)
    assert clip.rest is not None
    shown = len(clip.head) + len(clip.rest)
    assert HEAD - 40 <= len(clip.head) <= HEAD
    assert clip.rest_length == len(clip.rest)
    assert shown <= 4_000
    assert shown + clip.left_out == len(text)
    assert clip.head + clip.rest == text[:shown]


def test_short_texts_and_short_rests_are_not_folded() -> None:
    for text in ("short", "x" * (HEAD + HEAD // 5), ""):
        clip = clipped(text, 4_000)
        assert (clip.head, clip.rest, clip.left_out) == (text, None, 0)


def test_many_lines_are_folded_and_marks_survive_the_fold() -> None:
    text = "line\n" * 100 + "dragon"
    clip = clipped(text, 4_000, words("dragon"), Vocabulary.of(["dragon"], whole=True))
    assert clip.head.count("\n") == 9
    assert clip.rest is not None
    assert clip.rest.endswith("<mark>dragon</mark>") or clip.rest.endswith('<mark class="rare">dragon</mark>')


def test_a_mark_across_the_fold_is_closed_on_both_sides() -> None:
    word = "d" * 3_000
    clip = clipped(word, 4_000, words(word), Vocabulary.of([word], whole=True))
    assert clip.rest is not None
    assert clip.head == f"<mark>{'d' * HEAD}</mark>"
    assert clip.rest == f"<mark>{'d' * (3_000 - HEAD)}</mark>"
