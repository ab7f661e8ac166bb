from dataclasses import dataclass, fields
from typing import Any, ClassVar

import pytest

from assay.errors import MethodError
from assay.examples import Examples
from assay.methods.base import Fitted, Method, option


@dataclass(frozen=True)
class Example(Method):
    name: ClassVar[str] = "example"

    damping: float = option(0.1, "added to the diagonal")
    blocks: str = option("all", "which parts", ("all", "attention"))

    def check(self) -> None:
        self.expect(self.damping > 0, "damping", "a positive number")

    def fit(self, model: Any, train: Examples) -> Fitted:
        raise NotImplementedError


def test_parameters_and_their_descriptions() -> None:
    assert Example(damping=0.5).parameters() == {"damping": 0.5, "blocks": "all"}
    assert [dict(field.metadata) for field in fields(Example)] == [
        {"help": "added to the diagonal", "choices": None},
        {"help": "which parts", "choices": ("all", "attention")},
    ]


def test_refuses_other_choices_and_values_out_of_range() -> None:
    with pytest.raises(MethodError, match=r"blocks='atention'.*Did you mean 'attention'"):
        Example(blocks="atention")
    with pytest.raises(MethodError, match=r"damping=0; expected a positive number"):
        Example(damping=0)
