"""From one pool into another nothing is lost; a second run goes on with the rest."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.storage.pools.builders import at, episode, fleet, same
from tspace_core.errors import PoolError, StorageError
from tspace_core.objects.path import AnyPath
from tspace_core.records.episode import Episode
from tspace_core.records.meta import EpisodeMeta
from tspace_core.storage import episodes_table
from tspace_core.storage.pools import avro
from tspace_core.storage.pools import convert as module
from tspace_core.storage.pools.avro import AvroPool
from tspace_core.storage.pools.convert import ConvertReport, convert
from tspace_core.storage.pools.digest import digest
from tspace_core.storage.pools.parquet import ParquetPool
from tspace_core.storage.pools.pool import Pool
from tspace_core.storage.pools.query import Query
from tspace_core.storage.pools.registry import open_pool

text = st.text(st.characters(codec="utf-8"), max_size=12)
number = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(1e-300, 1e300)
units = st.floats(-1, 1, width=32)
singles = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def metas(draw: st.DrawFn) -> EpisodeMeta:
    name = draw(st.from_regex(r"\w[\w.\-+ ()\[\],@#~&%]{0,12}", fullmatch=True))
    vehicle = draw(st.from_regex(r"\w[\w.\-]{0,8}", fullmatch=True))
    key = f"{vehicle}/{draw(st.dates())}/{name}"
    letters = st.characters(codec="utf-8", exclude_characters="#/")
    piece = draw(st.text(letters, min_size=1, max_size=5))
    return EpisodeMeta(
        episode_id=f"{key}#{piece}", log_key=key, vehicle_id=vehicle,
        driver_id=draw(text), site_id=draw(text), timezone=draw(text),
        units=draw(st.dictionaries(text, text, max_size=3)), rate_hz=draw(positive),
        window=draw(st.integers(1, 3)), signals=tuple(draw(st.lists(text, min_size=1, max_size=3))),
        pedal_axis=tuple(draw(st.lists(number, max_size=4))),
        speed_axis_kmh=tuple(draw(st.lists(number, max_size=4))),
        default_map_sha256=draw(st.from_regex(r"[0-9a-f]{64}", fullmatch=True)), budget_nm=draw(positive),
        upper_factor=draw(positive), software_version=draw(text), segment=draw(st.integers(0, 2**60)),
        time_source="clock", substitutes=draw(st.dictionaries(text, text, max_size=2)), action_source="agent",
        action_note=draw(text), reward_kind=draw(text), gamma=draw(number), energy_wh=draw(number),
        distance_m=draw(number), duration_s=draw(st.floats(0, 1e300)), end_reason=draw(text),
    )  # fmt: skip


@st.composite
def episodes(draw: st.DrawFn) -> Episode:
    meta, n = draw(metas()), draw(st.integers(1, 4))
    times = sorted(draw(st.sets(st.integers(-(2**63), 2**63 - 1), min_size=n + 1, max_size=n + 1)))
    gaps = np.diff(np.array(times, object))
    if (gaps >= 2**63).any():  # the definition of an episode cannot tell that such times ascend
        times = [time // 2 for time in times]
        times = sorted({*times, *range(max(times) - n, max(times))})[-(n + 1) :]
    width = meta.window * len(meta.signals)
    return Episode(
        states=draw(hnp.arrays(np.float32, (n + 1, width), elements=singles)),
        actions=draw(
            hnp.arrays(np.float32, (n, 68), elements=st.floats(-1, 1, width=32), fill=st.just(-0.0))
        ),
        rows=draw(hnp.arrays(np.int32, n)),
        rewards=draw(hnp.arrays(np.float32, n, elements=singles)),
        times=np.array(times, np.int64),
        flags=draw(hnp.arrays(np.uint8, n)),
        meta=meta,
    )


@settings(max_examples=25, derandomize=True)
@given(episodes())
def test_any_episode_survives_parquet_avro_parquet_bit_for_bit(one: Episode) -> None:
    with tempfile.TemporaryDirectory() as folder:
        again = one
        for number, form in enumerate((episodes_table, avro, episodes_table)):
            path = Path(folder, str(number))
            form.write(path, again)
            again = form.read(path)
            assert same(again, one)
        assert digest(again) == digest(one)


@settings(max_examples=6, derandomize=True)
@given(st.lists(episodes(), min_size=2, max_size=3, unique_by=lambda one: one.meta.log_key))
def test_any_episodes_survive_three_pools(many: list[Episode]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        first, second, third = ParquetPool(f"{folder}/1"), AvroPool(f"{folder}/2"), ParquetPool(f"{folder}/3")
        with first, second, third:
            assert first.store(many) == len(many)
            for source, target in ((first, second), (second, third)):
                report = convert(source, target)
                assert (report.new, report.refused) == (len(many), {})
            for one in many:
                assert same(third.read(one.meta.episode_id), one)
            marks = [
                [(found.digest, found.order) for found in pool.find()] for pool in (first, second, third)
            ]
            assert marks[0] == marks[1] == marks[2]


@pytest.fixture
def both(place: AnyPath, tmp_path: Path) -> Iterator[tuple[Pool, Pool]]:
    """A filled lake on a disk, and an empty Avro pool there or in a bucket."""
    with ParquetPool(tmp_path / "source") as source, AvroPool(place) as target:
        source.store(fleet())
        yield source, target


def test_a_second_run_finds_all_there_without_reading(
    both: tuple[Pool, Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = both
    told: list[int] = []
    report = convert(source, target, tell=lambda found: told.append(found.new))
    assert (report.found, report.new, report.there, report.records) == (7, 7, 0, 33)
    assert told == [7]
    monkeypatch.setattr(ParquetPool, "read", None)
    again = convert(source, target)
    assert (again.found, again.new, again.there, again.records) == (7, 0, 7, 0)


def test_a_query_takes_whole_episodes(both: tuple[Pool, Pool]) -> None:
    source, target = both
    assert convert(source, target, Query(vehicles=("v1",), after=at(1, 9))).records == 8
    assert [entry.episode_id for entry in target.find()] == ["v1/2026-03-02/log.blf#0000"]


def test_what_is_refused_costs_only_itself(both: tuple[Pool, Pool]) -> None:
    """Another content there, and a file that cannot be read here."""
    source, target = both
    target.store([episode(0, 6), episode(2, 1, second=120)])
    Path(source.find(Query(vehicles=("v3",)))[0].place).write_bytes(b"torn")
    report = convert(source, target)
    assert (report.found, report.new, report.there) == (7, 4, 1)
    assert set(report.refused) == {"v1/2026-03-01/log.blf#0000", "v3/2026-03-02/log.blf#0000"}
    assert "another episode" in report.refused["v1/2026-03-01/log.blf#0000"]
    assert "damaged" in report.refused["v3/2026-03-02/log.blf#0000"]
    assert target.count().episodes == 6


def test_an_interrupted_run_keeps_what_it_has_stored(
    both: tuple[Pool, Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = both
    monkeypatch.setattr(module, "BATCH_EPISODES", 2)

    def interrupt(report: ConvertReport) -> None:
        if report.new == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, target, tell=interrupt)
    assert target.count().episodes == 4
    report = convert(source, target)
    assert (report.new, report.there) == (3, 4)
    assert all(same(target.read(one.meta.episode_id), one) for one in fleet())


def test_batches_are_bounded_by_records(both: tuple[Pool, Pool], monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = both
    monkeypatch.setattr(module, "BATCH_RECORDS", 9)
    sizes: list[int] = []
    whole = AvroPool.store

    def counted(self: AvroPool, many: Any) -> int:
        sizes.append(sum(map(len, many)))
        return whole(self, many)

    monkeypatch.setattr(AvroPool, "store", counted)
    assert convert(source, target).new == 7
    assert max(sizes) <= 9
    assert sum(sizes) == 33


def test_pools_are_opened_by_their_url(tmp_path: Path) -> None:
    for url, kind in (
        (f"parquet:{tmp_path}", ParquetPool),
        (f"avro:{tmp_path}", AvroPool),
        (str(tmp_path), ParquetPool),
        ("avro:s3://bucket/lake", AvroPool),
        ("s3://bucket/lake", ParquetPool),
    ):
        with open_pool(url) as pool:
            assert type(pool) is kind
            assert (
                str(pool).endswith(url.partition(":")[2] if kind is AvroPool else str(tmp_path))
                or "s3" in url
            )


@pytest.mark.parametrize(
    "url",
    [
        "",
        "parquet:",
        "avro:",
        "ftp://host/folder",
        "avro:ftp://host",
        "mongodb:",
        "mongo:tspace",
        "Avro:data",
    ],
)
def test_a_url_of_no_pool_says_the_forms(url: str) -> None:
    with pytest.raises(PoolError, match="<"):
        open_pool(url)


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://user:secret@host/database",
        "mongodb:user:secret@host",
        "mongodb:user:sec@secret@host.org/database",
        "mongodb+srv://user:secret@host/database",
        "s3://key:secret@bucket/lake",
        "avro:s3://key:secret@bucket/lake",
    ],
)
def test_no_message_shows_a_password(url: str) -> None:
    with pytest.raises(StorageError, match="<") as refused:
        open_pool(url)
    assert "secret" not in str(refused.value)
    assert "key" not in str(refused.value).replace("mongodb:", "")
