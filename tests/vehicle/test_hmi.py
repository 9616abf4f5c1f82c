"""The sources of a person's requests: one contract, and what differs between them."""

import pytest

from tests.vehicle.hmi_contract import HmiContract, Listener
from tests.vehicle.samples import truck
from tspace_core.errors import ConfigError
from tspace_core.link.datagrams import STATUSES
from tspace_core.vehicle.hmi import EVENTS, HmiSource, hmi_source
from tspace_core.vehicle.states import Event

__all__ = ["HmiContract", "Listener"]


class TestUdp(HmiContract):
    """Requests in datagrams."""

    follows = frozenset(STATUSES)

    @property
    def source(self) -> HmiSource:
        return hmi_source("udp", truck())

    def test_a_running_episode_without_a_valid_end_is_not_valid(self) -> None:
        assert self.source.at_stop is Event.STOP
        assert self.source.attended


class TestDummy(HmiContract):
    """Begins at start; ends at the stop request."""

    at_start = (Event.BEGIN,)

    @property
    def source(self) -> HmiSource:
        return hmi_source("dummy", truck())

    def test_it_begins_at_start_and_what_it_captured_is_valid_at_the_stop_request(self) -> None:
        assert Listener(self.source).stop() == [Event.BEGIN]
        assert self.source.at_stop is Event.FINISH
        assert not self.source.attended

    def test_other_requests_are_told_and_not_followed(self) -> None:
        listener = Listener(self.source)
        listener.requests.put("end_invalid")
        assert listener.stop() == [Event.BEGIN]
        assert listener.ignored == ["HMI: end_invalid is not followed while hmi.source is dummy"]


def test_every_status_has_an_event() -> None:
    assert set(EVENTS) == set(STATUSES)


def test_an_unknown_source_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"telepathy.*one of udp, rmq, dummy: .*TSPACE_HMI__SOURCE"):
        hmi_source("telepathy", truck())
