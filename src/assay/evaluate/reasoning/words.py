"""What a token and a sentence of a worked solution are for: token classes and sentence roles, by rules on the text.

    token classes    logic, syntax, numbers, operators, words
    sentence roles   answer, check, calculation, control, definition, statement

A token has the class of its first visible character, so that the pieces of a word go together. Words such as `if` and `for` are
logic in prose and syntax in code; a text is code if a line of it begins as a statement of Python does. The rules are
English and Python; they are a reading aid and no linguistics.
"""

import re

from assay.grain import Fold

CLASSES = ("logic", "syntax", "numbers", "operators", "words")
ROLES = ("answer", "check", "calculation", "control", "definition", "statement")

_LOGIC = frozenset(
    """so then thus hence therefore because since if unless but however although though while when whenever also and or not
    either neither nor both first second next finally now let given suppose assume total altogether means implies wait
    alternatively actually instead otherwise""".split()  # noqa: SIM905
)
_KEYWORDS = frozenset(
    """def return for while in if elif else import from as class lambda try except finally raise with yield pass break continue
    global nonlocal assert del is not and or None True False async await print""".split()  # noqa: SIM905
)
_CODE = re.compile(
    r"^\s*(def \w+\s*\(|class \w+\s*[:(]|import \w|from \w+ import |return\b|for .+:\s*$|while .+:\s*$)", re.M
)
_PIECE = re.compile(
    r"(?P<number>\d+(?:\.\d+)?)|(?P<word>[^\W\d_]\w*|_\w*)|(?P<operator>[-+*/=<>%^&|!~×÷]+)|(?P<syntax>[^\w\s])"
)
_CHECK = re.compile(
    r"\b(check\w*|verif\w*|wait|actually|alternative\w*|another way|double-check|let me|hmm|instead|make sure|test\w*)\b",
    re.I,
)
_ANSWER = re.compile(r"####|\\boxed|\banswer\b|^\s*return\b", re.I | re.M)
_CALCULATION = re.compile(r"\d\s*[-+*/=×÷%^<>]|[-+*/=×÷%^<>]\s*\$?\d|=")
_CONTROL = re.compile(r"^\s*(for|while|if|elif|else|try|except|with)\b")
_DEFINITION = re.compile(r"^\s*(def|class|import|from|let|suppose|assume)\b", re.I)


def is_code(text: str) -> bool:
    """Whether a line of it begins as a statement of Python does."""
    return _CODE.search(text) is not None


def class_of(piece: str, code: bool) -> str:
    """The class of a whole word, number or run of signs.

    >>> class_of("therefore", False), class_of("if", False), class_of("if", True), class_of("+", False), class_of("(", True)
    ('logic', 'logic', 'syntax', 'operators', 'syntax')
    """
    found = _PIECE.match(piece)
    match found.lastgroup if found else None:
        case "number":
            return "numbers"
        case "operator":
            return "operators"
        case "word":
            if code:
                return "syntax" if piece in _KEYWORDS else "words"
            return "logic" if piece.lower() in _LOGIC else "words"
        case _:
            return "syntax"


def classes_of(fold: Fold) -> list[str]:
    """The class of each token of a fold over a text's tokens; a token without text, or of white space, is syntax."""
    shown = [name if start < end else "" for name, start, end in zip(fold.names, fold.starts, fold.ends, strict=True)]
    text = "".join(shown)
    code = is_code(text)
    at: dict[int, str] = {}
    for piece in _PIECE.finditer(text):
        at.update(dict.fromkeys(range(*piece.span()), class_of(piece[0], code)))
    found: list[str] = []
    position = 0
    for name in shown:
        visible = position + len(name) - len(name.lstrip())
        found.append(at.get(visible, "syntax") if name.strip() else "syntax")
        position += len(name)
    return found


def role_of(sentence: str, code: bool = False) -> str:
    """What a sentence, or a line of code, is for.

    >>> role_of("#### 72"), role_of("Let me check that."), role_of("48 / 2 = 24 clips"), role_of("She sold clips.")
    ('answer', 'check', 'calculation', 'statement')
    """
    if _ANSWER.search(sentence):
        return "answer"
    if code and _DEFINITION.match(sentence):
        return "definition"
    if code and _CONTROL.match(sentence):
        return "control"
    if not code and _CHECK.search(sentence):
        return "check"
    if _CALCULATION.search(sentence):
        return "calculation"
    return "definition" if _DEFINITION.match(sentence) else "statement"
