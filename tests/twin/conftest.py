"""Vehicles of the simulated world, and variants of them."""

from collections.abc import Callable
from typing import Any

import pytest

from tspace_core.config import RoadLoad, TwinParameters, Vehicle, load_vehicle

Variant = Callable[..., Vehicle]


@pytest.fixture(scope="session")
def truck() -> Vehicle:
    return load_vehicle("twin_truck")


@pytest.fixture(scope="session")
def mule() -> Vehicle:
    return load_vehicle("twin_mule")


@pytest.fixture(scope="session")
def variant(truck: Vehicle) -> Variant:
    """The truck with other values in ``road`` or ``twin``."""

    def make(*, road: dict[str, Any] | None = None, twin: dict[str, Any] | None = None) -> Vehicle:
        assert truck.twin is not None
        return truck.model_copy(
            update={
                "road": RoadLoad.model_validate(truck.road.model_dump() | (road or {})),
                "twin": TwinParameters.model_validate(truck.twin.model_dump() | (twin or {})),
            }
        )

    return make
