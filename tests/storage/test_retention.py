"""Retention and quarantine: what goes by the rules, and that what is in use never does."""

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.storage.replay_episodes import coded_episode
from tspace_core.config import load_vehicle
from tspace_core.config.retention import AREAS, Retention, load_retention
from tspace_core.config.settings import settings as tspace_settings
from tspace_core.errors import ConfigError, StorageError
from tspace_core.objects.path import AnyPath, S3Path
from tspace_core.online.run_state import RunState
from tspace_core.storage import retention as module
from tspace_core.storage.files import write_text
from tspace_core.storage.folders import file_sizes
from tspace_core.storage.lake import Lake
from tspace_core.storage.replay import Replay, build_replay, versions_of
from tspace_core.storage.retention import Plan, apply_retention, plan_retention
from tspace_core.storage.retention_items import Item
from tspace_core.storage.unit_of_work import UnitOfWork

DAY = 86_400.0


@pytest.fixture
def lake(place: AnyPath, tmp_path: Path) -> Lake:
    return Lake(place, local=tmp_path / "here")


@pytest.fixture
def on_disk(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def names(plan: Plan) -> list[str]:
    return [verdict.item.name for verdict in plan.goes]


def reasons(plan: Plan) -> dict[str, str]:
    return {verdict.item.name: str(verdict.kept) for verdict in plan.stays}


def in_days(days: float) -> float:
    """An instant so long after now: a bucket's times cannot be set back."""
    return time.time() + days * DAY


def age(path: AnyPath, days: float) -> None:
    """Let a file on a disk be so old."""
    assert isinstance(path, Path)
    for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
        os.utime(file, (time.time() - days * DAY,) * 2)


def versions(lake: Lake, name: str = "v1", count: int = 5) -> list[Replay]:
    return [build_replay(lake.replay(name), [coded_episode(number, 4)]) for number in range(count)]


def checkpoint(
    lake: Lake, run: str, step: int, *, replay: Replay | None = None, agent: str = "ddpg"
) -> AnyPath:
    folder = lake.checkpoints(agent, run) / f"{step:08d}"
    if replay is not None:
        values = {"values": {"replay_sha256": replay.manifest.content_sha256}}
        write_text(folder / "training.json", json.dumps(values))
    write_text(folder / "actor.json", "{}")
    write_text(folder / "manifest.json", json.dumps({"agent": agent, "step": step}))
    return folder


def point(lake: Lake, vehicle: str, run: str, replay: Replay | None = None) -> None:
    content: dict[str, object] = {"run": run, "step": 1}
    if replay is not None:
        content["summary"] = {"replay": replay.manifest.name, "replay_version": replay.manifest.version}
    write_text(lake.root / "checkpoints" / "ddpg" / f"{vehicle}.json", json.dumps(content))


def test_the_newest_versions_of_each_buffer_stay_and_the_others_go_whole(lake: Lake) -> None:
    versions(lake, "v1"), versions(lake, "v2", 2)
    (lake.local / "online").mkdir(parents=True)
    plan = plan_retention(lake, Retention.model_validate({"replay": {"newest": 3}}), now=time.time())
    assert names(plan) == ["v1/000001", "v1/000002"]
    assert all("newest 3" in verdict.reason and verdict.item.size > 0 for verdict in plan.goes)
    assert versions_of(lake.replay("v1")) == [f"{n:06d}" for n in range(1, 6)], "a plan changes nothing"
    done = apply_retention(lake, plan)
    assert (done.removed, done.size, done.failed, done.stayed) == (2, plan.size, {}, {})
    assert versions_of(lake.replay("v1")) == ["000003", "000004", "000005"]
    assert not (lake.replay("v1") / "000001").exists()
    Replay.open(lake.replay("v1")).verify()
    assert Replay.open(lake.replay("v2")).manifest.version == "000002"
    (note_file,) = file_sizes(lake.root / "metrics" / "retention", "*.json")
    note = json.loads(note_file.read_text())
    assert note["values"] == {"area": "replay", "partition": "v1", "items": 2, "bytes": plan.size}


def test_versions_that_an_agent_or_a_checkpoint_names_stay(lake: Lake) -> None:
    made = versions(lake)
    point(lake, "v1", "v1-a", made[0])
    checkpoint(lake, "v1-b", 5, replay=made[1])
    plan = plan_retention(lake, Retention.model_validate({"replay": {"newest": 1}}), now=time.time())
    assert names(plan) == ["v1/000003", "v1/000004"]
    assert "latest agent of v1" in reasons(plan)["v1/000001"]
    assert "ddpg/v1-b" in reasons(plan)["v1/000002"]
    apply_retention(lake, plan)
    assert versions_of(lake.replay("v1")) == ["000001", "000002", "000005"]


def test_what_comes_into_use_after_the_plan_stays(lake: Lake) -> None:
    made = versions(lake, count=3)
    plan = plan_retention(lake, Retention.model_validate({"replay": {"newest": 1}}), now=time.time())
    assert names(plan) == ["v1/000001", "v1/000002"]
    checkpoint(lake, "v1-late", 5, replay=made[0])
    done = apply_retention(lake, plan)
    assert list(done.stayed) == ["v1/000001"] and "v1-late" in done.stayed["v1/000001"]
    assert versions_of(lake.replay("v1")) == ["000001", "000003"]


def test_where_use_cannot_be_told_nothing_of_the_area_goes(lake: Lake) -> None:
    versions(lake, count=3)
    write_text(lake.root / "checkpoints" / "ddpg" / "v1.json", "{torn")
    rules = Retention.model_validate({"replay": {"newest": 1}, "metrics": {"days": 1}})
    write_text(lake.root / "metrics" / "night" / "a.json", "{}")
    plan = plan_retention(lake, rules, now=in_days(2))
    assert names(plan) == ["night/a.json"], "other areas are not held up"
    assert "v1.json is damaged" in plan.doubts["replay"]


def test_runs_go_by_age_but_for_the_latest_the_released_and_the_online_ones(
    on_disk: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    for run in (
        "twin_truck-old",
        "twin_truck-latest",
        "twin_truck-released",
        "twin_truck-online",
        "twin_truck-new",
    ):
        checkpoint(on_disk, run, 1)
    for run in ("old", "latest", "released", "online"):
        age(on_disk.checkpoints("ddpg", f"twin_truck-{run}"), 100)
    point(on_disk, "twin_truck", "twin_truck-latest")
    write_text(
        on_disk.local / "online" / "twin_truck" / "run.json", json.dumps({"learner_run": "twin_truck-online"})
    )
    champions = on_disk.root / "checkpoints" / "champion"
    for content in ("a", "b", "c"):
        write_text(champions / "twin_truck" / (content * 16) / "manifest.json", "{}")
    age(champions / "twin_truck", 100)

    def champion(content: str, run: str) -> dict[str, object]:
        return {
            "vehicle_id": "twin_truck", "agent": "ddpg", "run": run, "step": 1, "sha256": content * 64,
            "source": "checkpoints/ddpg/x", "released_by": "me", "at": "2026-01-01T00:00:00Z",
        }  # fmt: skip

    releases = {
        "champion": champion("a", "twin_truck-released"),
        "history": [champion("b", "gone")],
        "withdrawn": [
            {"champion": champion("c", "gone"), "withdrawn_by": "me", "at": "2026-01-02T00:00:00Z"}
        ],
    }
    write_text(champions / "twin_truck.json", json.dumps(releases))
    rules = Retention.model_validate({"checkpoints": {"days": 90, "newest": 1}})
    plan = plan_retention(on_disk, rules, now=time.time())
    assert names(plan) == ["champion/twin_truck/" + "c" * 16, "ddpg/twin_truck-old"]
    stays = reasons(plan)
    assert "the champion of twin_truck comes from it" in stays["ddpg/twin_truck-released"]
    assert "online runs of twin_truck" in stays["ddpg/twin_truck-online"]
    assert "a champion before" in stays["champion/twin_truck/" + "b" * 16]
    apply_retention(on_disk, plan)
    assert not on_disk.checkpoints("ddpg", "twin_truck-old").exists()
    assert (on_disk.checkpoints("ddpg", "twin_truck-latest") / "00000001" / "manifest.json").is_file()


def test_what_an_online_learner_of_another_agent_goes_on_from_stays(on_disk: Lake) -> None:
    """Its run bears the same name as one of DDPG, which nothing uses."""
    for agent in ("ddpg", "rdpg"):
        for run in ("twin_truck-online", "twin_truck-new"):
            checkpoint(on_disk, run, 1, agent=agent)
        age(on_disk.checkpoints(agent, "twin_truck-online"), 100)
    write_text(
        on_disk.local / "online" / "twin_truck" / "run.json",
        RunState(
            vehicle_id="twin_truck", learner_run="twin_truck-online", learner_agent="rdpg"
        ).model_dump_json(),
    )
    rules = Retention.model_validate({"checkpoints": {"days": 90, "newest": 1}})
    plan = plan_retention(on_disk, rules, now=time.time())
    assert names(plan) == ["ddpg/twin_truck-online"]
    assert "online runs of twin_truck" in reasons(plan)["rdpg/twin_truck-online"]


def test_frames_whose_raw_log_is_gone_or_goes_stay(on_disk: Lake) -> None:
    for name in ("kept.blf", "gone.blf", "going.blf"):
        log = on_disk.log_of(f"v1/2026-01-05/{name}")
        write_text(on_disk.frames(log), "frames")
        age(on_disk.frames(log), 50)
        if name != "gone.blf":
            write_text(log.path, "raw")
            write_text(log.origin, "{}")
    for path in (on_disk.root / "raw" / "v1" / "2026-01-05").glob("going*"):
        age(path, 50)
    rules = Retention.model_validate({"frames": {"days": 30}, "raw": {"days": 40}})
    plan = plan_retention(on_disk, rules, now=time.time())
    assert names(plan) == ["v1/2026-01-05/kept.blf", "v1/2026-01-05/going.blf"]
    apply_retention(on_disk, plan)
    assert [log.name for log in on_disk.raw_logs()] == ["kept.blf"]
    left = sorted(path.name for path in (on_disk.root / "frames").rglob("*.parquet"))
    assert left == ["going.blf.parquet", "gone.blf.parquet"]
    assert sorted(path.name for path in (on_disk.root / "raw").rglob("*") if path.is_file()) == [
        "kept.blf",
        "kept.blf.origin.json",
    ]


def test_the_oldest_go_while_the_area_holds_too_much(on_disk: Lake) -> None:
    for number in range(5):
        path = on_disk.root / "metrics" / "night" / f"{number}.json"
        write_text(path, "x" * 100)
        age(path, 10 - number)
    rules = Retention.model_validate({"metrics": {"most": 250}})
    assert names(plan_retention(on_disk, rules, now=time.time())) == [f"night/{n}.json" for n in range(3)]


@pytest.mark.parametrize("rule", [{"newest": 1}, {"days": 0}, {"most": 0}, {"days": 0, "newest": 1}])
def test_what_a_pointer_is_about_to_name_stays(on_disk: Lake, rule: dict[str, int]) -> None:
    """A table and an encoder are written first; the file that names them comes last."""
    table, encoder = "v1.sequence-abc.lance", "encoders/v1/sequence-abc"
    for folder in (table, encoder):
        write_text(on_disk.root / "embeddings" / folder / "content", "x")
    rules = Retention.model_validate({"embeddings": rule})
    plan = plan_retention(on_disk, rules, now=time.time())
    assert names(plan) == [] and "about to name it" in reasons(plan)[table]
    assert names(plan_retention(on_disk, rules, now=in_days(2))) == [encoder, table]


@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    ages=st.lists(st.integers(0, 100), max_size=12),
    days=st.none() | st.integers(0, 100),
    newest=st.none() | st.integers(1, 6),
    most=st.none() | st.integers(0, 1500),
    used=st.sets(st.integers(0, 11)),
)
def test_rules(
    ages: list[int], days: int | None, newest: int | None, most: int | None, used: set[int]
) -> None:
    """Whatever the rules: what is new enough, among the newest or in use stays; sums hold."""
    now = 1e9
    items = [Item("metrics", "p", f"n{i}", (), 100, now - old * DAY - i, "g") for i, old in enumerate(ages)]
    rule = Retention.model_validate({"metrics": {"days": days, "newest": newest, "most": most}}).metrics
    assert rule is not None
    found = SimpleNamespace(why=lambda item: "used" if int(item.name[1:]) in used else None)
    verdicts = {} if rule.keeps_all else {v.item.name: v for v in module._judge(items, rule, now, found)}  # type: ignore[arg-type]
    gone = {name for name, verdict in verdicts.items() if verdict.kept is None}
    order = sorted(items, key=lambda item: -item.changed)
    protected = {item.name for item in order[: newest or 0]} | {f"n{i}" for i in used}
    assert not gone & protected
    if most is None:
        for item in items:
            wanted = days is not None and (now - item.changed) / DAY > days
            wanted |= days is None and newest is not None and item.name not in protected
            assert (item.name in gone) == (wanted and item.name not in protected)
    else:
        left = [item for item in items if item.name not in gone]
        assert 100 * len(left) <= most or {item.name for item in left} <= protected


def test_a_partition_that_fails_costs_only_itself(on_disk: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    versions(on_disk, "v1", 2), versions(on_disk, "v2", 2)
    plan = plan_retention(on_disk, Retention.model_validate({"replay": {"newest": 1}}), now=time.time())

    def failing(lake: Lake, *, name: str) -> object:
        if name.endswith("v1"):
            message = "no room for the record"
            raise StorageError(message)
        return UnitOfWork(lake, name=name)

    monkeypatch.setattr(module, "UnitOfWork", failing)
    done = apply_retention(on_disk, plan)
    assert done.failed == {"replay v1": "no room for the record"} and done.removed == 1
    assert versions_of(on_disk.replay("v1")) == ["000001", "000002"]
    assert versions_of(on_disk.replay("v2")) == ["000002"]


def test_reports_and_caches_lie_beside_the_lake(on_disk: Lake, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name, days in (("old", 400), ("new", 1)):
        write_text(out / name / "report.html", "x")
        age(out / name, days)
    write_text(on_disk.local / "index" / "episodes-1.v1.sqlite", "x")
    write_text(on_disk.local / "index" / "episodes-1.v1.sqlite-wal", "x")
    rules = Retention.model_validate({"reports": {"days": 365}, "caches": {"days": 30}})
    assert names(plan_retention(on_disk, rules, now=time.time())) == []
    plan = plan_retention(on_disk, rules, now=in_days(31), out_dir=out)
    assert names(plan) == ["old", "episodes-1.v1.sqlite"]
    apply_retention(on_disk, plan)
    assert [path.name for path in out.iterdir()] == ["new"]
    assert list((on_disk.local / "index").iterdir()) == []


def test_scores_of_champions_stay(on_disk: Lake) -> None:
    for content in ("a", "b"):
        write_text(
            on_disk.root
            / "policy_actions"
            / "vehicle=v1"
            / "date=2026-01-05"
            / f"d.blf.{content * 16}.parquet",
            "x",
        )
    champion = {
        "vehicle_id": "v1", "agent": "ddpg", "run": "r", "step": 1, "sha256": "a" * 64, "source": "x",
        "released_by": "me", "at": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    write_text(on_disk.root / "checkpoints" / "champion" / "v1.json", json.dumps({"champion": champion}))
    rules = Retention.model_validate({"policy_actions": {"days": 1}})
    plan = plan_retention(on_disk, rules, now=in_days(2))
    assert names(plan) == [f"v1/2026-01-05/d.blf.{'b' * 16}"]


def test_an_empty_lake_has_nothing_to_remove(lake: Lake) -> None:
    everything = {area: {"days": 1} for area in AREAS}
    plan = plan_retention(lake, Retention.model_validate(everything), now=in_days(1000))
    assert plan == Plan((), (), {})


def test_what_has_no_rule_is_left_alone(lake: Lake) -> None:
    log = lake.log_of("v1/2026-01-05/d.blf")
    for path in (log.path, lake.frames(log), lake.signals(log), lake.episodes_manifest(log)):
        write_text(path, "x")
    given: list[dict[str, object]] = [{}, {"frames": {}}, {"quarantine": None}]
    for rules in given:
        assert names(plan_retention(lake, Retention.model_validate(rules), now=in_days(10_000))) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("signals: {days: 3}", "signals"),
        ("episodes: {days: 3}", "episodes"),
        ("raw: {}", "raw: {days"),
        ("raw: {most: 1 GiB}", "raw: {days"),
        ("replay: {newest: 0}", "newest"),
        ("replay: {newest: null}", "newest"),
        ("frames: {days: -1}", "days"),
        ("frames: 30", "frames"),
        ("quarantine: {weeks: 3}", "weeks"),
    ],
)
def test_wrong_rules_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, said: str
) -> None:
    (tmp_path / "retention.yaml").write_text(content)
    monkeypatch.setenv("TSPACE_CONF_DIR", str(tmp_path))
    tspace_settings.cache_clear()
    try:
        with pytest.raises(ConfigError, match=said):
            load_retention()
    finally:
        monkeypatch.undo()
        tspace_settings.cache_clear()


def test_the_rules_that_come_with_it() -> None:
    rules = load_retention()
    assert rules.raw is None, "raw logs never go unless somebody says so"
    assert rules.replay is not None and rules.replay.newest == 3
    assert load_vehicle("twin_truck").id  # conf/ is the project's own


def test_an_unknown_area_is_named(on_disk: Lake) -> None:
    with pytest.raises(StorageError, match=r"'signals'.*quarantine"):
        plan_retention(on_disk, Retention(), now=0.0, areas=["signals"])


def test_hidden_files_of_writers_at_work_are_not_seen(on_disk: Lake) -> None:
    write_text(on_disk.root / "metrics" / "night" / ".a.json.1-ab.tmp", "x")
    assert not isinstance(on_disk.root, S3Path)
    plan = plan_retention(on_disk, Retention.model_validate({"metrics": {"days": 1}}), now=in_days(9))
    assert names(plan) == []
