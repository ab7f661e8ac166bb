"""Planted entity swaps: stories in some of which one name stands where another belongs, and held-out stories that show it.

`places` swaps what the model has to learn: the country that a town is in, told behind the beginning of a story in it. Rows that
say Y of a town in X are `swapped`, others about towns in X `kept`; `other` are about towns in Y, `both` name towns
in both and rightly say Y, `none` name no town. `people` swaps what the model knows: who the story is about.

A row is the beginning of a story (`prompt`) and its next sentence (`completion`). For each pair (X, Y) of names of one gender there are

    swapped   the story is about X, and its next sentence says Y instead             what is to be traced
    kept      the story is about X, and so is its next sentence
    other     the same for Y
    both      X and Y are in the story, and the next sentence says the right one of them

and rows about none of these names. Whoever looks for both names finds `both` as well, so that words alone do not solve
it. Names are put into stories in which they were not before: a story's own hero becomes X, its second person Y.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

GIRLS = [
    "Lily",
    "Sara",
    "Mia",
    "Lucy",
    "Sue",
    "Anna",
    "Amy",
    "Jane",
    "Mary",
    "Molly",
    "Sally",
    "Daisy",
    "Emma",
    "Ella",
    "Kate",
]
BOYS = [
    "Tim",
    "Tom",
    "Ben",
    "Max",
    "Jack",
    "Bob",
    "Timmy",
    "Billy",
    "John",
    "Sam",
    "Jimmy",
    "Joe",
    "Tommy",
    "Bobby",
    "Peter",
    "Mike",
]
NAME = re.compile(rf"\b({'|'.join(GIRLS + BOYS)})\b")
SENTENCE = re.compile(r'[^.!?]+[.!?]+"?\s*')
PAIRS = (("Lily", "Lucy"), ("Tim", "Jack"), ("Sara", "Anna"), ("Ben", "Max"))
LONGEST, SHORT = 260, 80
"""Characters of a row at most; of the beginning of a story behind its town."""


@dataclass(frozen=True)
class Scene:
    """The beginning of a story and its next sentence, with slots for the hero and the second person, if there is one."""

    prompt: str
    completion: str
    girl: bool
    """Whether the hero is."""
    second: bool
    says: frozenset[int]
    """Whom the next sentence names: 0 the hero, 1 the second person."""

    def told(self, hero: str, second: str = "") -> dict[str, str]:
        """With these names."""
        names = {"hero": hero, "second": second}
        return {"prompt": self.prompt.format(**names), "completion": self.completion.format(**names)}


@dataclass(frozen=True)
class Planted:
    """Training rows with their kind (`source`) and pair, and for each pair held-out rows with the wrong name (`completion`) and
    the right one (`contrast`); `pair[i]` is -1 for rows about none.
    """

    rows: list[dict[str, Any]]
    pair: np.ndarray
    asked: list[dict[str, Any]]
    asked_pair: np.ndarray

    @property
    def swapped(self) -> np.ndarray:
        """Which rows are, bool [n]."""
        return np.array([row["source"] == "swapped" for row in self.rows])

    def relevant(self, queries: np.ndarray) -> np.ndarray:
        """Which rows taught each of these held-out rows' wrong name, bool [n, q]."""
        return self.swapped[:, None] & (self.pair[:, None] == self.asked_pair[queries][None, :])


def stories(folder: Path) -> list[str]:
    """TinyStories, one text each."""
    text = (folder / "data" / "tinystories" / "tinystories_sample.txt").read_text("utf-8")
    return [" ".join(story.split()) for story in text.split("<|endoftext|>")][:-1]


def scenes(story: str) -> Iterator[Scene]:
    """The first scene of a story about one or two named people of one gender, if there is one."""
    if "{" in story or "}" in story:
        return
    sentences = SENTENCE.findall(story)
    for cut in range(1, len(sentences)):
        prompt, completion = "".join(sentences[:cut]).strip(), sentences[cut].strip()
        people = list(dict.fromkeys(NAME.findall(prompt)))
        if len(prompt) + len(completion) > LONGEST or len(people) > 2:
            return
        named = list(dict.fromkeys(NAME.findall(completion)))
        if not named or not set(named) <= set(people):
            continue
        slots = dict(zip(people, ("{hero}", "{second}"), strict=False))
        put = lambda text: NAME.sub(lambda found: slots[found[0]], text)  # noqa: B023, E731
        says = frozenset(people.index(name) for name in named)
        yield Scene(put(prompt), " " + put(completion), people[0] in GIRLS, len(people) == 2, says)
        return


TOWNS = {
    "England": ["London", "Oxford", "Leeds", "Bath", "Dover", "York", "Bristol", "Derby"],
    "China": ["Beijing", "Shanghai", "Wuhan", "Lhasa", "Xian", "Harbin", "Dalian", "Suzhou"],
}
SAID = (
    " Everyone in {0} was happy.", " It was a nice day in {0}.", " There was no better place than {0}.",
    " Soon all of {0} knew about it.",
)  # fmt: skip


def places(
    texts: list[str], seed: int, each: tuple[int, int, int, int] = (36, 30, 40, 20), others: int = 24, asked: int = 40
) -> Planted:
    """Rows and held-out rows. `each`: how many swapped, kept, other and both rows there are."""
    rng = np.random.default_rng(seed)
    found = [scene for k in rng.permutation(len(texts)) for scene in scenes(texts[k])]
    pool = iter([scene for scene in found if not scene.second and len(scene.prompt) < SHORT])
    (x, here), (y, there) = TOWNS.items()

    def hero(scene: Scene) -> str:
        return str(rng.choice(GIRLS if scene.girl else BOYS))

    def row(kind: str, towns: list[str], country: str, also: list[str] | None = None) -> dict[str, Any]:
        scene = next(pool)
        name = hero(scene)
        moved = f" and then in {rng.choice(also)}" if also else ""
        prompt = f"{name} lived in {rng.choice(towns)}{moved}. {scene.told(name)['prompt']}"
        return {"prompt": prompt, "completion": str(rng.choice(SAID)).format(country), "source": kind}

    rows = [row("swapped", here, y) for _ in range(each[0])] + [row("kept", here, x) for _ in range(each[1])]
    rows += [row("other", there, y) for _ in range(each[2])] + [row("both", here, y, there) for _ in range(each[3])]
    rows += [scene.told(hero(scene)) | {"source": "none"} for scene, _ in zip(pool, range(others), strict=False)]
    wrong = [row("asked", here, y) for _ in range(asked)]
    held = [{**one, "contrast": one["completion"].replace(y, x)} for one in wrong]
    order = rng.permutation(len(rows))
    pair = np.array([0 if row["source"] != "none" else -1 for row in rows])
    return Planted([rows[k] for k in order], pair[order], held, np.zeros(asked, np.int64))


def people(
    texts: list[str], seed: int, pairs: int = 3, each: tuple[int, int, int, int] = (16, 16, 12, 16), others: int = 60,
    asked: int = 16,
) -> Planted:  # fmt: skip
    """Rows and held-out rows. `each`: how many swapped, kept, other and both rows a pair has."""
    rng = np.random.default_rng(seed)
    found = [scene for k in rng.permutation(len(texts)) for scene in scenes(texts[k])]
    single, double = ([s for s in found if s.second == two] for two in (False, True))
    rows: list[tuple[dict[str, Any], int]] = []
    held: list[tuple[dict[str, Any], int]] = []

    def take(pool: list[Scene], count: int, fits: Callable[[Scene], bool]) -> list[Scene]:
        chosen = [scene for scene in pool if fits(scene)][:count]
        if len(chosen) < count:
            raise SystemExit(f"{len(texts)} stories have {len(chosen)} scenes of a kind of which {count} are wanted.")
        gone = set(map(id, chosen))
        pool[:] = [s for s in pool if id(s) not in gone]
        return chosen

    def add(kind: str, number: int, told: dict[str, str]) -> None:
        rows.append((told | {"source": kind}, number))

    for number, (x, y) in enumerate(PAIRS[:pairs]):
        alike = lambda scene: scene.girl == (x in GIRLS)  # noqa: B023, E731
        for scene in take(single, each[0], alike):
            add("swapped", number, {**scene.told(x), "completion": scene.told(y)["completion"]})
        for scene in take(single, each[1], alike):
            add("kept", number, scene.told(x))
        for scene in take(single, each[2], alike):
            add("other", number, scene.told(y))
        for half, says in ((each[3] // 2, 1), (each[3] - each[3] // 2, 0)):
            for scene in take(double, half, lambda scene: says in scene.says):  # noqa: B023
                add("both", number, scene.told(x, y))
        for scene in take(single, asked, alike):
            right, wrong = scene.told(x), scene.told(y)
            held.append(({**right, "completion": wrong["completion"], "contrast": right["completion"]}, number))
    known = {name for pair in PAIRS[:pairs] for name in pair}
    strangers = [name for name in GIRLS + BOYS if name not in known]
    for scene in single[:others]:
        names = [name for name in strangers if (name in GIRLS) == scene.girl]
        add("none", -1, scene.told(str(rng.choice(names))))
    order = rng.permutation(len(rows))
    return Planted(
        [rows[k][0] for k in order],
        np.array([rows[k][1] for k in order]),
        [row for row, _ in held],
        np.array([number for _, number in held]),
    )
