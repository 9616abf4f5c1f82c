"""What a search relies on: the table shows whole states only, and finds what it was asked for."""

import dataclasses
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.embeddings.drives import BEGUN_NS, VEHICLE, smooth_episode
from tests.objects.seaweed import S3
from tspace_core.errors import ObjectError, SchemaVersionError, StorageError, WriterBusyError
from tspace_core.objects.path import AnyPath, any_path
from tspace_core.storage import embeddings, lance
from tspace_core.storage.embedding_rows import EmbeddedEpisode, SituationFilter
from tspace_core.storage.embeddings import EmbeddingTable, EncoderName
from tspace_core.storage.files import write_text
from tspace_core.storage.lake import Lake
from tspace_core.storage.writer import Direct

ENCODER = EncoderName("coded-0123456789ab", 8)


def unit(count: int, seed: int, dim: int = ENCODER.dim) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).normal(size=(count, dim))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def embedded(
    number: int, records: int = 6, *, source: str = "a", dim: int = 8, **meta: object
) -> EmbeddedEpisode:
    return EmbeddedEpisode(source, smooth_episode(number, records, **meta), unit(records, number, dim))


def some(*numbers: int) -> list[EmbeddedEpisode]:
    return [embedded(number) for number in numbers]


def name_of(number: int) -> str:
    return f"{VEHICLE}/2026-01-05/log{number}.blf#0000"


@pytest.fixture
def table(place: AnyPath, tmp_path: Path) -> EmbeddingTable:
    return EmbeddingTable(Lake(place, local=tmp_path / "local"), VEHICLE)


@pytest.fixture
def disk(tmp_path: Path) -> EmbeddingTable:
    return EmbeddingTable(Lake(tmp_path / "lake"), VEHICLE)


class RefusedError(Exception):
    """What a writer says here that gives up."""


class Failing(Direct):
    """A unit of work that is given up before its pointer is visible."""

    def text(self, path: AnyPath, text: str, *, if_absent: bool = False, seen: str | None = None) -> None:
        raise RefusedError


def test_what_was_stored_is_found_with_its_figures(table: EmbeddingTable) -> None:
    items = some(1, 2)
    state = table.store(items, encoder=ENCODER)
    assert (state.episodes, state.rows, state.encoder, state.dim) == (2, 12, ENCODER.id, 8)
    assert table.state() == state
    assert table.sources() == {name_of(1): "a", name_of(2): "a"}
    found = table.row(name_of(2), 3)
    assert found is not None
    vector, figures = found
    np.testing.assert_array_equal(vector, items[1].vectors[3])
    window = items[1].episode.states[3].reshape(30, 3)
    assert figures.speed_kmh == pytest.approx(window[:, 0].mean(), rel=1e-5)
    assert figures.pedal_percent == pytest.approx(window[:, 1].mean(), rel=1e-5)
    assert figures.at_s == 9.0
    assert figures.time == datetime.fromtimestamp(int(items[1].episode.times[3]) / 1e9, UTC)
    assert (figures.driver, figures.site, figures.agent) == ("tracker", "proving_ground", "default_map")
    np.testing.assert_array_equal(table.vectors(name_of(1)), items[0].vectors)
    assert table.row(name_of(2), 6) is None
    assert table.row("no such episode", 0) is None


def test_the_nearest_are_those_that_a_full_comparison_finds(table: EmbeddingTable) -> None:
    items = some(*range(1, 9))
    table.store(items, encoder=ENCODER)
    query = unit(1, 99)[0]
    expected = sorted(
        (float(1 - item.vectors[k] @ query), item.episode.meta.episode_id, k)
        for item in items for k in range(6)
    )[:7]  # fmt: skip
    found = table.search(query, 7)
    assert [(item.episode_id, item.k) for item in found] == [(name, k) for _, name, k in expected]
    np.testing.assert_allclose([item.distance for item in found], [far for far, _, _ in expected], atol=1e-5)


def test_the_same_again_changes_nothing_and_another_content_replaces(table: EmbeddingTable) -> None:
    table.store(some(1, 2), encoder=ENCODER)
    again = table.store(some(2), encoder=ENCODER)
    assert (again.episodes, again.rows) == (2, 12)
    longer = embedded(2, 9, source="b")
    state = table.store([longer], encoder=ENCODER)
    assert (state.episodes, state.rows) == (2, 15)
    assert table.sources()[name_of(2)] == "b"
    np.testing.assert_array_equal(table.vectors(name_of(2)), longer.vectors)


def test_episodes_that_are_gone_are_removed(table: EmbeddingTable) -> None:
    table.store(some(1, 2, 3), encoder=ENCODER)
    state = table.store([], encoder=ENCODER, gone={name_of(1), name_of(3), "never there"})
    assert (state.episodes, state.rows) == (1, 6)
    assert set(table.sources()) == {name_of(2)}
    assert {item.episode_id for item in table.search(unit(1, 5)[0], 50)} == {name_of(2)}


def test_filters_narrow_before_the_search(disk: EmbeddingTable) -> None:
    quoted = "o'brien\\\"; --"
    items = [
        embedded(1, driver_id=quoted),
        embedded(2, site_id="public_roads"),
        embedded(3, action_source="agent"),
    ]
    disk.store(items, encoder=ENCODER)
    query = unit(1, 7)[0]

    def found(**fields: Any) -> set[str]:
        return {item.episode_id for item in disk.search(query, 50, where=SituationFilter(**fields))}

    assert found(drivers=(quoted,)) == {name_of(1)}
    assert found(drivers=("x' OR '1'='1",)) == set()
    assert found(sites=("public_roads",)) == {name_of(2)}
    assert found(agents=("agent", "default_map")) == {name_of(1), name_of(2), name_of(3)}
    assert found(other_than=name_of(1)) == {name_of(2), name_of(3)}
    assert len(disk.search(query, 50, where=SituationFilter(not_record=(name_of(2), 4)))) == 17
    begun = datetime.fromtimestamp(BEGUN_NS / 1e9, UTC)
    day = timedelta(days=1)
    assert found(after=begun + 2 * day) == {name_of(2), name_of(3)}
    assert found(before=begun + 2 * day) == {name_of(1)}
    third = begun + 2 * day + timedelta(seconds=9)
    only = disk.search(query, 50, where=SituationFilter(after=third, before=third + timedelta(seconds=3)))
    assert [(item.episode_id, item.k) for item in only] == [(name_of(2), 3)]
    with pytest.raises(StorageError, match="no zone"):
        found(after=datetime(2026, 1, 1))


def test_an_index_is_used_where_there_are_many_rows(
    disk: EmbeddingTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "INDEX_ROWS", 1000)
    items = [embedded(number, 400) for number in range(1, 5)]
    disk.store(items, encoder=ENCODER)
    stats = disk._open(disk._required()).index_stats("vector_idx")
    assert stats.num_indexed_rows == 1600
    query = items[2].vectors[17]
    nearest = disk.search(query, 1)[0]
    assert (nearest.episode_id, nearest.k) == (name_of(3), 17)
    everything = np.concatenate([item.vectors for item in items]) @ query
    exact = np.sort(1 - everything)[:10]
    np.testing.assert_allclose([item.distance for item in disk.search(query, 10)], exact, atol=1e-5)
    disk.store([embedded(9, 30)], encoder=ENCODER)  # not in the index yet, and found
    assert disk.search(unit(30, 9)[4], 1)[0].episode_id == name_of(9)


def test_as_many_as_fit_are_found_wherever_the_index_has_them(
    disk: EmbeddingTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "INDEX_ROWS", 1000)
    monkeypatch.setattr(embeddings, "_NPROBES", 1)
    disk.store([embedded(number, 400) for number in range(1, 5)], encoder=ENCODER)
    begun = datetime.fromtimestamp(BEGUN_NS / 1e9, UTC) + timedelta(days=1)
    minute = SituationFilter(after=begun, before=begun + timedelta(seconds=60))
    assert sorted(item.k for item in disk.search(unit(1, 7)[0], 30, where=minute)) == list(range(20))


def test_a_vector_of_an_earlier_cut_does_not_count(table: EmbeddingTable) -> None:
    table.store([embedded(1, source="old")], encoder=ENCODER)
    assert table.row(name_of(1), 2) is not None
    assert table.row(name_of(1), 2, source="old") is not None
    assert table.row(name_of(1), 2, source="new") is None


@pytest.mark.parametrize("second", ["read", "written"])
def test_a_writer_that_gives_up_leaves_the_old_state(table: EmbeddingTable, second: str) -> None:
    old = table.store(some(1, 2), encoder=ENCODER)
    with pytest.raises(RefusedError):
        table.store(
            [embedded(2, 9, source="b"), embedded(3)], encoder=ENCODER, gone={name_of(1)}, writer=Failing()
        )
    if second == "read":
        assert table.state() == old
        assert table.sources() == {name_of(1): "a", name_of(2): "a"}
        assert len(table.search(unit(1, 3)[0], 50)) == 12
    else:  # the next writer takes back what the first one added
        state = table.store([embedded(4)], encoder=ENCODER)
        assert (state.episodes, state.rows) == (3, 18)
        assert set(table.sources()) == {name_of(1), name_of(2), name_of(4)}
        np.testing.assert_array_equal(table.vectors(name_of(2)), unit(6, 2))


def test_a_first_writer_that_gives_up_leaves_nothing(table: EmbeddingTable) -> None:
    with pytest.raises(RefusedError):
        table.store(some(1, 2), encoder=ENCODER, writer=Failing())
    assert table.state() is None
    assert table.store(some(3), encoder=ENCODER).rows == 6


def test_old_versions_go_and_the_visible_one_never(
    disk: EmbeddingTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "KEPT", timedelta(milliseconds=1))
    old = disk.store(some(1), encoder=ENCODER)
    versions = disk.folder / f"{old.table}.lance" / "_versions"
    assert isinstance(versions, Path)
    counts = []
    for number in range(2, 14):
        if number % 4 == 0:
            with pytest.raises(RefusedError):
                disk.store(some(100), encoder=ENCODER, writer=Failing())
        disk.store(some(number), encoder=ENCODER)
        assert len(disk.sources()) == number
        counts.append(len(list(versions.glob("*.manifest"))))
    assert min(counts[-3:]) <= min(counts[:3]) + 2, counts


def test_another_encoder_begins_a_table_of_its_own(
    disk: EmbeddingTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = disk.store(some(1, 2), encoder=ENCODER)
    other = EncoderName("coded-ffffffffffff", 5)
    with pytest.raises(RefusedError):
        disk.store([embedded(1, dim=5)], encoder=other, writer=Failing())
    assert disk.state() == first
    state = disk.store([embedded(1, dim=5)], encoder=other)
    assert (state.encoder, state.dim, state.rows) == (other.id, 5, 6)
    assert state.table != first.table
    for vector, encoder in ((unit(1, 1)[0], None), (unit(1, 1, 5)[0], ENCODER)):
        with pytest.raises(StorageError, match=r"of encoder coded-ffffffffffff.*situation_embeddings"):
            disk.search(vector, dim_of=encoder)
    monkeypatch.setattr(embeddings, "KEPT", timedelta(milliseconds=1))
    disk.store([], encoder=other)
    assert not (disk.folder / f"{first.table}.lance").exists()  # nobody reads it any more


def test_a_vector_with_nan_is_refused_with_episode_and_record(disk: EmbeddingTable) -> None:
    old = disk.store(some(1), encoder=ENCODER)
    bad = embedded(2)
    bad.vectors[4, 1] = np.nan
    with pytest.raises(StorageError, match=r"log2\.blf#0000, record 4"):
        disk.store([embedded(3), bad], encoder=ENCODER)
    assert disk.state() == old
    assert set(disk.sources()) == {name_of(1)}
    with pytest.raises(StorageError, match="NaN"):
        disk.search(np.full(8, np.nan, np.float32))


def test_vectors_of_another_number_or_length_are_refused(disk: EmbeddingTable) -> None:
    with pytest.raises(StorageError, match=r"vectors are \(6, 5\), expected \(6, 8\)"):
        disk.store([embedded(1, dim=5)], encoder=ENCODER)
    short = dataclasses.replace(embedded(1), vectors=unit(5, 1))
    with pytest.raises(StorageError, match=r"vectors are \(5, 8\), expected \(6, 8\)"):
        disk.store([short], encoder=ENCODER)
    with pytest.raises(StorageError, match="given twice"):
        disk.store(some(1, 1), encoder=ENCODER)
    assert disk.state() is None


def test_nothing_stored_names_the_command(table: EmbeddingTable) -> None:
    for act in (lambda: table.search(unit(1, 1)[0]), lambda: table.row("e", 0)):
        with pytest.raises(StorageError, match=f"tspace embed --vehicle {VEHICLE}"):
            act()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ("{", StorageError),
        ("[]", StorageError),
        ('{"table": 1}', StorageError),
        ('{"layout": 9}', SchemaVersionError),
    ],
)
def test_a_damaged_pointer_says_so(table: EmbeddingTable, content: str, kind: type[StorageError]) -> None:
    write_text(table.pointer, content)
    with pytest.raises(kind, match=rf"{VEHICLE}\.json.*tspace embed"):
        table.state()


@pytest.mark.parametrize("damage", ["data", "versions", "gone", "foreign"])
def test_a_damaged_or_foreign_table_says_so(disk: EmbeddingTable, damage: str) -> None:
    state = disk.store(some(1, 2), encoder=ENCODER)
    folder = Path(str(disk.folder / f"{state.table}.lance"))
    if damage in ("gone", "foreign"):
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        folder.rmdir()
    else:
        for path in (folder / ("data" if damage == "data" else "_versions")).iterdir():
            path.write_bytes(b"junk")
    if damage == "foreign":
        folder.mkdir()
        (folder / "holiday.jpg").write_bytes(b"jpg")
    with pytest.raises(StorageError, match=r"\.lance is damaged or no LanceDB table.*tspace embed"):
        disk.search(unit(1, 1)[0])


def test_a_foreign_folder_is_not_written_over(disk: EmbeddingTable) -> None:
    folder = Path(str(disk.folder / f"{VEHICLE}.{ENCODER.id}.lance"))
    folder.mkdir(parents=True)
    (folder / "holiday.jpg").write_bytes(b"jpg")
    with pytest.raises(StorageError, match="no LanceDB table: move it"):
        disk.store(some(1), encoder=ENCODER)
    assert (folder / "holiday.jpg").read_bytes() == b"jpg"


def test_two_writers_on_a_machine_exclude_each_other(disk: EmbeddingTable) -> None:
    other = EmbeddingTable(disk.lake, VEHICLE)

    def meanwhile() -> Any:
        with pytest.raises(WriterBusyError, match=r"process \d+ writes the vectors"):
            other.store(some(2), encoder=ENCODER)
        yield embedded(1)

    assert disk.store(meanwhile(), encoder=ENCODER).rows == 6
    assert other.store(some(2), encoder=ENCODER).rows == 12


def test_two_writers_on_two_machines_lose_nothing(s3_folder: str, tmp_path: Path) -> None:
    """Each has locks of its own; the pointer's condition lets one of them win."""
    one, two = (EmbeddingTable(Lake(s3_folder, local=tmp_path / name), VEHICLE) for name in "ab")
    one.store(some(1), encoder=ENCODER)

    def meanwhile() -> Any:
        assert two.store(some(2), encoder=ENCODER).rows == 12
        yield embedded(3)

    with pytest.raises((ObjectError, WriterBusyError)):
        one.store(meanwhile(), encoder=ENCODER)
    assert set(two.sources()) == {name_of(1), name_of(2)}
    assert one.store(some(3), encoder=ENCODER).rows == 18
    assert set(two.sources()) == {name_of(1), name_of(2), name_of(3)}


def test_a_server_gone_in_mid_write_leaves_the_old_state(
    own_s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lance, "RETRY_S", 1.0)
    table = EmbeddingTable(Lake(own_s3.url + "/lake", local=tmp_path), VEHICLE)
    old = table.store(some(1), encoder=ENCODER)

    def goes_down() -> Any:
        yield embedded(2)
        own_s3.server.stop()
        yield embedded(3)

    with pytest.raises(ObjectError) as error:
        table.store(goes_down(), encoder=ENCODER)
    assert own_s3.server.endpoint in str(error.value)
    own_s3.server.start()
    assert table.state() == old
    assert set(table.sources()) == {name_of(1)}
    assert table.store(some(2), encoder=ENCODER).rows == 12


def test_wrong_credentials_are_said_to_be(
    s3_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = EmbeddingTable(Lake(s3_folder, local=tmp_path), VEHICLE)
    table.store(some(1), encoder=ENCODER)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    place = any_path(s3_folder) / "embeddings" / "x.lance"
    with pytest.raises(ObjectError, match="AWS_"), lance.our_errors(place):
        lance.connect(table.folder).open_table(f"{VEHICLE}.{ENCODER.id}").count_rows()


_KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, {project!r})
from tests.storage.test_embeddings import *
from tspace_core.storage.writer import Direct
table = EmbeddingTable(Lake(Path(sys.argv[1])), VEHICLE)
class Killed(Direct):
    def text(self, path, text, *, if_absent=False, seen=None):
        os.kill(os.getpid(), 9)
table.store([embedded(2, 9, source="b"), embedded(3)], encoder=ENCODER, gone={{name_of(1)}}, writer=Killed())
"""


def test_a_killed_writer_leaves_the_old_state(disk: EmbeddingTable) -> None:
    old = disk.store(some(1, 2), encoder=ENCODER)
    project = str(Path(__file__).parents[2])
    code = _KILLED.format(project=project)
    done = subprocess.run(
        [sys.executable, "-c", code, str(disk.lake.root)], cwd=project, env=dict(os.environ), check=False,
        capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == -9, done.stderr.decode()
    assert disk.state() == old
    assert set(disk.sources()) == {name_of(1), name_of(2)}
    assert disk.store([embedded(4)], encoder=ENCODER).rows == 18


def test_the_pointer_is_plain_json_for_people(disk: EmbeddingTable) -> None:
    disk.store(some(1), encoder=ENCODER, left_out={"other windows": 3})
    content = json.loads(Path(str(disk.pointer)).read_text())
    assert content["table"] == f"{VEHICLE}.{ENCODER.id}"
    assert content["left_out"] == {"other windows": 3}
    import lancedb

    found = lancedb.connect(str(disk.folder)).open_table(content["table"])  # as the documentation shows
    found.checkout(content["version"])
    assert found.count_rows() == content["rows"] == 6
