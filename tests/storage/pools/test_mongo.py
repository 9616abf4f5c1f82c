"""MongoDB pools hold the contract of every pool."""

import pytest

from tests.storage.pools.contract import Opener, PoolContract
from tests.storage.pools.mongo_server import MongoServer
from tspace_core.storage.pools.mongo import MongoPool


class TestMongoPool(PoolContract):
    @pytest.fixture
    def opener(self, mongo_server: MongoServer, mongo_database: str) -> Opener:
        return lambda: MongoPool(mongo_database, mongo_server.uri)
