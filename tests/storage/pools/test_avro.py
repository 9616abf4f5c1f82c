"""Avro files as a pool."""

import pytest

from tests.storage.pools.contract import Opener, PoolContract
from tspace_core.objects.path import AnyPath
from tspace_core.storage.pools.avro import AvroPool


class TestAvroPool(PoolContract):
    @pytest.fixture
    def opener(self, place: AnyPath) -> Opener:
        return lambda: AvroPool(place)
