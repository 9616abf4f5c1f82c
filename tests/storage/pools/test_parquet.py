"""The lake as a pool."""

import pytest

from tests.storage.pools.contract import Opener, PoolContract
from tspace_core.objects.path import AnyPath
from tspace_core.storage.pools.parquet import ParquetPool


class TestParquetPool(PoolContract):
    @pytest.fixture
    def opener(self, place: AnyPath) -> Opener:
        return lambda: ParquetPool(place)
