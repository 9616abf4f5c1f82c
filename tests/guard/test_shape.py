"""The highest and the lowest map that hold the shape rules, on small random maps."""

import numpy as np
import pytest

from tspace_core.guard.shape import Doubles, down, first_break, lowered, raised, up

SEEDS = pytest.mark.parametrize("seed", range(20))


def random_map(seed: int, rows: int = 4, columns: int = 5) -> Doubles:
    """Float32 numbers whose sums are none, spread over more than the step."""
    numbers = np.random.default_rng(seed)
    return numbers.uniform(-900, 3500, (rows, columns)).astype(np.float32).astype(np.float64)


@SEEDS
def test_rounding_is_towards_one_side_and_to_the_next_number(seed: int) -> None:
    values = np.random.default_rng(seed).uniform(-4000, 4000, 100)
    for rounded, beyond in ((down(values), 1), (up(values), -1)):
        assert np.array_equal(rounded, rounded.astype(np.float32)), "float32 numbers"
        assert ((values - rounded) * beyond >= 0).all()
        nearer = np.nextafter(rounded.astype(np.float32), np.float32(beyond * np.inf))
        assert ((nearer.astype(np.float64) - values) * beyond > 0).all(), "none is nearer"
        assert np.array_equal(down(rounded), rounded)
        assert np.array_equal(up(rounded), rounded)


@SEEDS
@pytest.mark.parametrize("step", [33.3, 600.0, 800.1])
def test_what_comes_out_holds_the_rules_exactly(seed: int, step: float) -> None:
    block = random_map(seed)
    low, high = lowered(block, step), raised(block, step)
    assert first_break(block, step) is not None, "a map that needs it"
    assert first_break(low, step) is None
    assert first_break(high, step) is None
    assert (low <= block).all()
    assert (high >= block).all()
    assert np.array_equal(lowered(low, step), low)
    assert np.array_equal(raised(high, step), high)


@SEEDS
def test_nothing_higher_below_and_nothing_lower_above(seed: int) -> None:
    """Any cell one float32 further leaves the map it came from, however the others follow."""
    step = 333.3
    block = random_map(seed, 3, 3)
    low, high = lowered(block, step), raised(block, step)
    for place in np.ndindex(*block.shape):
        lifted = low.copy()
        lifted[place] = np.nextafter(np.float32(low[place]), np.float32(np.inf))
        assert (raised(lifted, step) > block).any()
        dropped = high.copy()
        dropped[place] = np.nextafter(np.float32(high[place]), np.float32(-np.inf))
        assert (lowered(dropped, step) < block).any()


@pytest.mark.parametrize(("along", "across", "what"), [
    (0.0, 0.0, None), (600.0, 0.0, None), (0.0, 600.0, None), (0.0, -600.0, None),
    (600.001, 0.0, "steps along the pedal"), (-0.001, 0.0, "falls along the pedal"),
    (0.0, 600.001, "steps along the speed"), (0.0, -600.001, "steps along the speed"),
])  # fmt: skip
def test_the_rules_around_their_limits(along: float, across: float, what: str | None) -> None:
    table = np.array([[0.0, along], [across, across + along]])
    found = first_break(table, 600.0)
    assert (found and found[0]) == what
