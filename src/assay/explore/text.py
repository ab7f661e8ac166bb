"""Texts written by strangers, as markup that cannot do harm: escaped, nothing invisible, long ones cut.

Every character that a reader would not see (controls, direction overrides, zero-width and other ignorable
characters, lone surrogates) is shown by its code, such as ⟦U+202E⟧. Exempt are line feed and tab, and joiners
and variation selectors where emoji and the scripts that need them use them.

Words shared with the query are marked. A word counts as shared unless it is common in the training data, so
that "the" is not marked; among the marked ones, rare words stand out.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import regex
from markupsafe import Markup, escape

from assay.methods.lexical.words import WORD

HIDDEN = regex.compile(
    r"([[\p{Default_Ignorable_Code_Point}\p{Noncharacter_Code_Point}\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]--[\t\n]])\1*",
    regex.VERSION1,
)
CODE = Markup('<span class="code">{}</span>')
JOINERS = "\u200c\u200d"
EMOJI_BASES = "#*0123456789©®"  # the only characters below U+0590 that a variation selector may follow

HEAD, HEAD_LINES = 400, 10  # of a long text, what is seen before it is unfolded
TERM_LENGTH = 20_000  # characters of a text in which words are looked for
COMMON, COMMON_IN_PART = 0.2, 0.5  # share of texts from which on a word is not marked
ALWAYS_MARKED = 3  # a word in at most so many texts is not common, however few texts there are
RARE = 0.02  # share of texts up to which a shared word stands out
SAMPLE = 1_000  # texts in which words are counted


@dataclass(frozen=True)
class Term:
    """A word at a place of a text, or two neighbouring characters of a script written without spaces."""

    word: str
    start: int
    end: int


@dataclass(frozen=True)
class Clipped:
    """A text as markup: `head` is seen at once, `rest` on demand; `left_out` characters are not on the page."""

    head: Markup
    rest: Markup | None
    rest_length: int
    left_out: int


@dataclass(frozen=True)
class Vocabulary:
    """In how many of `total` texts each word occurs; `limit` is the share from which on it is common."""

    counts: Counter[str]
    total: int
    limit: float

    @classmethod
    def of(cls, texts: Sequence[str], whole: bool) -> "Vocabulary":
        """Count in at most 1,000 evenly spaced texts.

        Of a training set that is not there in whole, the texts found for the queries are all there is, and
        the queries' own words are frequent in them; then only words in most of them are common.
        """
        step = max(1, -(-len(texts) // SAMPLE))
        sample = [texts[line] for line in range(0, len(texts), step)]
        counts = Counter(word for text in sample for word in {term.word for term in terms(text)})
        return cls(counts, len(sample), COMMON if whole else COMMON_IN_PART)

    def common(self, word: str) -> bool:
        """Whether too many texts have the word for it to say anything."""
        return self.counts[word] > max(ALWAYS_MARKED, self.limit * self.total)

    def rare(self, word: str) -> bool:
        """Whether hardly any text has it."""
        return self.counts[word] <= RARE * self.total


def terms(text: str) -> Iterator[Term]:
    """The words to compare, in any script, regardless of case and of how accents are encoded.

    Single characters say too little: those that stand alone are left out, those of scripts without spaces
    come as overlapping pairs.

    >>> [term.word for term in terms("A Cat sat, 猫が!")]
    ['cat', 'sat', '猫が']
    """
    before: regex.Match[str] | None = None
    for match in WORD.finditer(text, 0, TERM_LENGTH):
        if _length(match) > 1:
            yield Term(_normal(match.group()), match.start(), match.end())
            before = None
            continue
        if before is not None and before.end() == match.start():
            yield Term(_normal(text[before.start() : match.end()]), before.start(), match.end())
        before = match


def _length(match: "regex.Match[str]") -> int:
    return sum(not unicodedata.combining(character) for character in match.group())


def _normal(word: str) -> str:
    return unicodedata.normalize("NFC", word.casefold())


def shared(words: frozenset[str], text: str, vocabulary: Vocabulary) -> list[tuple[int, int, bool]]:
    """Where `text` has one of `words` that is not common: start, end, whether a rare one is among them.

    Marks with nothing but spaces between them are one.
    """
    spans: list[tuple[int, int, bool]] = []
    for term in terms(text):
        if term.word not in words or vocabulary.common(term.word):
            continue
        rare = vocabulary.rare(term.word)
        if spans and not text[spans[-1][1] : term.start].strip(" "):
            start, _, was_rare = spans.pop()
            spans.append((start, term.end, rare or was_rare))
        else:
            spans.append((term.start, term.end, rare))
    return spans


def plain(text: str) -> str:
    """The text with every invisible character as its code; not escaped yet."""
    return HIDDEN.sub(lambda match: match.group() if _at_work(match) else _code(match), text)


def visible(text: str, start: int = 0, end: int | None = None) -> Markup:
    """A part of the text, escaped, every invisible character as its code in a small tag."""
    end, parts = len(text) if end is None else end, list[Markup]()
    for match in HIDDEN.finditer(text, start, end):
        if not _at_work(match):
            parts += [escape(text[start : match.start()]), CODE.format(_code(match))]
            start = match.end()
    return Markup("").join([*parts, escape(text[start:end])])


def clipped(
    text: str, limit: int, words: frozenset[str] = frozenset(), vocabulary: Vocabulary | None = None
) -> Clipped:
    """The first `limit` characters of the text in two parts, the words that it shares with `words` marked."""
    spans = shared(words, text, vocabulary) if vocabulary is not None else []
    shown = len(text) if len(text) <= limit else _cut(text, limit)
    head = min(_cut(text, HEAD), _line_end(text, HEAD_LINES))
    if shown - head < HEAD // 4 and _line_end(text, 2 * HEAD_LINES) >= shown:
        head = shown  # so little is left that unfolding it is not worth a click
    rest = _marked(text, spans, head, shown) if head < shown else None
    return Clipped(_marked(text, spans, 0, head), rest, shown - head, len(text) - shown)


def _marked(text: str, spans: Iterable[tuple[int, int, bool]], start: int, end: int) -> Markup:
    parts: list[Markup] = []
    for first, last, rare in spans:
        first, last = max(first, start), min(last, end)
        if first < last:
            mark = Markup('<mark class="rare">{}</mark>' if rare else "<mark>{}</mark>")
            parts += [visible(text, start, first), mark.format(visible(text, first, last))]
            start = last
    return Markup("").join([*parts, visible(text, start, end)])


def _cut(text: str, length: int) -> int:
    """A position of at most `length`, between words if there are any."""
    if len(text) <= length:
        return len(text)
    space = max(text.rfind(white, length - 40, length) for white in " \n")
    return length if space < 1 else space


def _line_end(text: str, lines: int) -> int:
    """Where the `lines`-th line of the text ends."""
    position = -1
    for _ in range(lines):
        position = text.find("\n", position + 1)
        if position < 0:
            return len(text)
    return position


def _code(match: "regex.Match[str]") -> str:
    count = match.end() - match.start()
    return f"⟦U+{ord(match.group(1)):04X}{f' ×{count:,}' if count > 1 else ''}⟧"


def _at_work(match: "regex.Match[str]") -> bool:
    """Whether a joiner stands between characters that can be joined, a selector after one it can vary."""
    if match.end() - match.start() > 1:
        return False
    before, after = match.string[match.start() - 1 : match.start()], match.string[match.end() : match.end() + 1]
    if match.group() in JOINERS:
        return _joins(before) and _joins(after)
    if "VARIATION SELECTOR" in unicodedata.name(match.group(), ""):
        return before in EMOJI_BASES if before < "\u0590" else unicodedata.category(before)[0] in "LS"
    return False


def _joins(character: str) -> bool:
    return character >= "\u0590" and unicodedata.category(character)[0] in "LMS"
