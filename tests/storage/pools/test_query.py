"""A query narrows by each field that is given; its ranges are half open."""

from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.storage.pools.builders import at, episode, matching, ns
from tspace_core.records.episode import Episode
from tspace_core.records.meta import EpisodeMeta
from tspace_core.storage.pools.digest import digest
from tspace_core.storage.pools.entry import Entry, layout_mark, zeroed
from tspace_core.storage.pools.query import ALL, Query, nanoseconds


def entry_of(one: Episode) -> Entry:
    meta = one.meta
    return Entry(
        meta.episode_id, meta.vehicle_id, meta.driver_id, meta.site_id, meta.action_source, int(one.times[0]),
        int(one.times[-1]), len(one), zeroed(one), one.state_dim, layout_mark(meta.model_dump(mode="json")),
        "here", load_meta=lambda: meta,
    )  # fmt: skip


def test_no_field_is_everything() -> None:
    assert Query() == ALL
    assert ALL.everything
    assert not Query(valid=False).everything
    assert str(ALL) == "everything"
    assert str(Query(vehicles=("a", "b"), length_from=3)) == "vehicles=a|b, length_from=3"


def test_instants_need_a_zone_and_are_the_same_in_every_zone() -> None:
    with pytest.raises(ValidationError, match="timezone"):
        Query(after=datetime(2026, 3, 1))
    abroad = at().astimezone(timezone(timedelta(hours=8)))
    assert Query(after=abroad) == Query(after=at())
    assert Query(after=abroad).after_ns == ns(at())


@pytest.mark.parametrize(
    "fields",
    [
        {"after": at(1), "before": at()},
        {"started_from": at(1), "started_before": at()},
        {"length_from": 3, "length_to": 2},
        {"length_from": 0},
        {"vehicle": ("a",)},
        {"drivers": ("a", "\udcff")},
    ],
)
def test_a_query_that_cannot_be_meant_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Query.model_validate(fields)


def test_instants_are_exact_to_the_microsecond_over_the_whole_calendar() -> None:
    assert nanoseconds(datetime(1970, 1, 1, 0, 0, 0, 1, UTC)) == 1000
    assert nanoseconds(datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC)) == -1000
    latest = datetime.max.replace(tzinfo=UTC)
    assert nanoseconds(latest) == 253_402_300_799_999_999_000
    one = episode(0)
    assert Query(before=latest).fits(entry_of(one))
    assert not Query(after=latest).fits(entry_of(one))


def test_borders_are_half_open_to_the_nanosecond() -> None:
    one = episode(0, 3)
    one.times[:] = ns(at()) + np.array([0, 1, 1000, 1001])
    edge = at() + timedelta(microseconds=1)
    assert Query(after=at()).matching(one.times, one.flags).tolist() == [0, 1, 2]
    assert Query(before=at()).matching(one.times, one.flags).tolist() == []
    assert Query(after=edge).matching(one.times, one.flags).tolist() == [2]
    assert Query(before=edge).matching(one.times[:-1], one.flags).tolist() == [0, 1]
    assert Query(after=edge, before=edge).matching(one.times, one.flags).tolist() == []


seconds = st.integers(-4, 40)


@given(
    records=st.integers(1, 9),
    zeros=st.sets(st.integers(0, 8)),
    after=st.none() | seconds,
    before=st.none() | seconds,
    valid=st.sampled_from([None, True, False]),
)
def test_what_fits_without_a_look_never_leaves_out_a_match(
    records: int, zeros: set[int], after: int | None, before: int | None, valid: bool | None
) -> None:
    if after is not None and before is not None and after > before:
        after, before = before, after
    one = episode(0, records, zeroed=[k for k in zeros if k < records])
    query = Query(
        after=None if after is None else at(0, after),
        before=None if before is None else at(0, before),
        valid=valid,
    )
    wanted = [list(places) for _, places in matching([one], query)]
    found = query.matching(one.times, one.flags).tolist()
    assert found == (wanted[0] if wanted else [])
    assert query.fits(entry_of(one)) or not found


def test_a_digest_changes_with_any_bit_and_not_with_fields_of_later_versions() -> None:
    one, again = episode(0), episode(0)
    assert digest(one) == digest(again)
    again.states[-1, -1] = np.nextafter(again.states[-1, -1], np.float32(np.inf))
    assert digest(one) != digest(again)
    zero, minus = episode(0), episode(0)
    zero.rewards[0], minus.rewards[0] = 0.0, -0.0
    assert digest(zero) != digest(minus)
    defaults = {name for name, field in EpisodeMeta.model_fields.items() if not field.is_required()}
    assert "units" in defaults
    assert digest(episode(0, gamma=0.99)) == digest(one) != digest(episode(0, gamma=0.98))


def test_layouts_are_compared_by_value() -> None:
    meta = episode(0).meta.model_dump(mode="json")
    assert layout_mark({**meta, "rate_hz": 20}) == layout_mark(meta)
    assert layout_mark({**meta, "driver_id": "other"}) == layout_mark(meta)
    assert layout_mark({**meta, "gamma": 0.9}) != layout_mark(meta)
    del meta["gamma"]
    assert layout_mark(meta) == layout_mark(episode(0).meta.model_dump(mode="json"))
