"""States are brought to zero mean and unit deviation, and nothing else happens to them."""

import numpy as np
import pytest
import torch

from tspace_core.agents.normaliser import CLIP, Normaliser
from tspace_core.errors import AgentError


def test_unfitted_passes_states_through() -> None:
    states = torch.tensor([[1e6, -3.0]])
    assert torch.equal(Normaliser(2)(states), states)


def test_fitted_figures_are_subtracted_and_divided() -> None:
    normaliser = Normaliser(3)
    normaliser.fit([10.0, 0.0, -5.0], [2.0, 1.0, 10.0])
    found = normaliser(torch.tensor([[14.0, 1.0, -25.0], [10.0, 1e9, -5.0]]))
    assert found.tolist() == [[2.0, 1.0, -2.0], [0.0, CLIP, 0.0]]


def test_a_constant_dimension_is_only_centred() -> None:
    normaliser = Normaliser(2)
    normaliser.fit([100.0, 0.0], [0.0, 1e-9])
    assert normaliser(torch.tensor([[100.5, 0.25]])).tolist() == [[0.5, 0.25]]


@pytest.mark.parametrize(
    ("mean", "std", "says"),
    [
        ([1.0], [1.0, 1.0], r"of 2 states given mean \(1,\)"),
        ([1.0, np.nan], [1.0, 1.0], "not finite or negative"),
        ([1.0, 1.0], [1.0, -1.0], "not finite or negative"),
    ],
)
def test_wrong_figures_are_refused(mean: list[float], std: list[float], says: str) -> None:
    normaliser = Normaliser(2)
    with pytest.raises(AgentError, match=says):
        normaliser.fit(mean, std)
    assert not normaliser.fitted
