"""TracIn for trees: the transcription is in test_boostin; here, that the dropped term is the only difference."""

import numpy as np
from tests.trees import Toy


def test_the_dropped_term_matters_for_the_squared_loss() -> None:
    toy = Toy("squared")
    assert np.abs(toy.scores("tracin-trees") - toy.scores("boostin")).max() > 0.01
