"""Codes become actions that are smooth along the pedal axis, and come back from them."""

import numpy as np
import pytest

from tspace_core.agents.action_basis import ActionBasis
from tspace_core.errors import AgentError

BANDS = (0.0, 0.2, 0.5, 1.0)


def test_without_bands_the_code_is_the_action() -> None:
    basis, codes = ActionBasis(7), np.ones((2, 7), np.float32)
    assert basis.size == 7
    assert basis.expand(codes) is codes
    assert basis.project(codes) is codes


def test_bands_give_equal_rows_that_interpolate_between_their_centres() -> None:
    basis = ActionBasis(68, BANDS)
    action = basis.expand(np.array([[-1.0, 0.0, 1.0, 0.5]], np.float32)).reshape(4, 17)
    assert basis.size == 4
    assert (action == action[0]).all()
    np.testing.assert_allclose(action[0], np.interp(np.linspace(0, 1, 17), BANDS, [-1, 0, 1, 0.5]), atol=1e-6)


def test_a_code_comes_back_from_its_action() -> None:
    basis = ActionBasis(68, BANDS)
    codes = np.random.default_rng(0).uniform(-1, 1, (50, 4)).astype(np.float32)
    np.testing.assert_allclose(basis.project(basis.expand(codes)), codes, atol=1e-5)


@pytest.mark.parametrize(
    "bands", [(0.5, 0.2), (0.1, 0.1), (-0.1, 1.0), (0.0, 1.1), (0.0, float("nan"), 1.0), (float("nan"),)]
)
def test_centres_must_ascend_within_the_axis(bands: tuple[float, ...]) -> None:
    with pytest.raises(AgentError, match="ascending within 0 to 1"):
        ActionBasis(68, bands)


def test_an_action_without_pedal_columns_has_no_bands() -> None:
    with pytest.raises(AgentError, match="an action of 3 has none"):
        ActionBasis(3, BANDS)


@pytest.mark.parametrize("bands", [(0.0, 0.01, 0.02, 0.03), tuple(i / 17 for i in range(18))])
def test_bands_that_an_action_cannot_tell_apart_are_refused(bands: tuple[float, ...]) -> None:
    with pytest.raises(AgentError, match="closer than the 17 pedal columns, 1/16 apart"):
        ActionBasis(68, bands)


def test_a_band_on_each_column_is_an_action_s_row() -> None:
    basis = ActionBasis(68, tuple(i / 16 for i in range(17)))
    codes = np.random.default_rng(1).uniform(-1, 1, (5, 17)).astype(np.float32)
    np.testing.assert_allclose(basis.project(basis.expand(codes)), codes, atol=1e-5)
