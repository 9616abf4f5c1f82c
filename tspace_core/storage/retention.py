"""Retention: what goes by the rules of ``conf/retention.yaml``, and its removal.

A plan is made from listings alone and changes nothing. It is carried out partition by partition, each in a
unit of work: of a partition either all that was planned goes, or nothing. What was changed since, or has come
into use, stays.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tspace_core.config.retention import AREAS, Retention, Rule
from tspace_core.errors import StorageError, TspaceError
from tspace_core.objects.path import AnyPath, S3Path
from tspace_core.storage.lake import Lake
from tspace_core.storage.retention_items import Item, items_of
from tspace_core.storage.retention_use import InUse, in_use
from tspace_core.storage.unit_of_work import UnitOfWork, read_together
from tspace_core.storage.writer import DIRECT

DAY_S = 86_400.0
METRICS = "retention"
GRACE_S = DAY_S
"""What only a pointer keeps is written before the pointer names it: so long it is left alone."""
_OUTSIDE = ("reports", "caches")
"""Areas on this machine, beside the lake."""
_AFTER = {"frames": "raw"}


@dataclass(frozen=True)
class Verdict:
    """An item that a rule is against."""

    item: Item
    reason: str
    """Which rule, in numbers."""
    kept: str | None = None
    """Why it stays all the same; None: it goes."""


@dataclass(frozen=True)
class Plan:
    """What goes, and what stays though a rule is against it."""

    goes: tuple[Verdict, ...]
    stays: tuple[Verdict, ...]
    doubts: dict[str, str]
    """By area, why nothing of it goes."""

    @property
    def size(self) -> int:
        """Bytes that go."""
        return sum(verdict.item.size for verdict in self.goes)

    def partitions(self) -> dict[tuple[str, str], list[Verdict]]:
        """What goes, by area and partition."""
        found: dict[tuple[str, str], list[Verdict]] = defaultdict(list)
        for verdict in self.goes:
            found[verdict.item.area, verdict.item.partition].append(verdict)
        return dict(found)


@dataclass
class Applied:
    """What became of a plan.

    Attributes:
        removed: items that are gone.
        size: their bytes.
        stayed: name of an item to why it was left: changed or in use since the plan was made.
        failed: partition to what is wrong; nothing of it was removed.
    """

    removed: int
    size: int
    stayed: dict[str, str]
    failed: dict[str, str]


def plan_retention(
    lake: Lake,
    policy: Retention,
    *,
    now: float,
    out_dir: Path | None = None,
    areas: Sequence[str] = (),
) -> Plan:
    """Find what goes; nothing is changed.

    Args:
        lake: that is looked through.
        policy: the rules.
        now: s since 1970 UTC.
        out_dir: folder of the reports; None: reports are left alone.
        areas: only these; none given: all that have a rule.

    Raises:
        StorageError: there is no such area, or the lake cannot be read.
    """
    unknown = sorted(set(areas) - set(AREAS))
    if unknown:
        message = f"retention knows no area {unknown[0]!r}: give some of {', '.join(AREAS)}"
        raise StorageError(message)
    rules = {area: getattr(policy, area) for area in AREAS}
    chosen = [
        area for area, rule in rules.items() if rule and not rule.keeps_all and (not areas or area in areas)
    ]
    return read_together(lake, lambda: _plan(lake, {area: rules[area] for area in chosen}, now, out_dir))


def _plan(lake: Lake, rules: dict[str, Rule], now: float, out_dir: Path | None) -> Plan:
    used = in_use(lake, rules)
    verdicts: list[Verdict] = []
    for area in sorted(rules, key=lambda area: area in _AFTER):
        items = items_of(area, lake, out_dir)
        if area == "frames":
            used = _with_frames(lake, used, items, verdicts)
        verdicts += _judge(items, rules[area], now, used)
    order = {area: number for number, area in enumerate(AREAS)}
    verdicts.sort(key=lambda verdict: (order[verdict.item.area], verdict.item.name))
    doubts = {area: text for area, text in used.doubts.items() if area in rules}
    return Plan(
        goes=tuple(verdict for verdict in verdicts if verdict.kept is None),
        stays=tuple(verdict for verdict in verdicts if verdict.kept is not None),
        doubts=doubts,
    )


def _with_frames(lake: Lake, used: InUse, frames: list[Item], verdicts: list[Verdict]) -> InUse:
    """Frames are made again from their raw log; where that is gone, or goes, they are all there is."""
    going = {verdict.item.name for verdict in verdicts if verdict.item.area == "raw" and not verdict.kept}
    there = {log.key for log in lake.raw_logs()} - going
    for item in frames:
        if item.name not in there:
            used.add("frames", item.name, "its raw log is gone, so they could not be made again")
    return used


def _judge(items: Iterable[Item], rule: Rule, now: float, used: InUse) -> list[Verdict]:
    """What a rule is against."""
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        groups[item.group].append(item)
    against: dict[str, Verdict] = {}
    newest: set[str] = set()
    for group in groups.values():
        for place, item in enumerate(sorted(group, key=_newest_first)):
            if item.group and rule.newest is not None and place < rule.newest:
                newest.add(item.name)
                continue
            reason = _reason(item, place, rule, now)
            if reason is not None:
                against[item.name] = Verdict(item, reason, _kept(item, used, now))
    if rule.most is not None:
        items = [item for group in groups.values() for item in group]
        _beyond(items, rule.most, newest, against, lambda item: _kept(item, used, now))
    return list(against.values())


def _newest_first(item: Item) -> tuple[float, str]:
    tail = item.name.rpartition("/")[2]
    # Versions are numbered: their number says more than the time at which a copy was made.
    return (-float(tail), "") if tail.isdigit() and item.area == "replay" else (-item.changed, item.name)


def _reason(item: Item, place: int, rule: Rule, now: float) -> str | None:
    age = (now - item.changed) / DAY_S
    if rule.days is not None:
        return f"not changed for {age:.0f} days, kept for {rule.days:g}" if age > rule.days else None
    if rule.newest is not None and not item.group:
        return "nothing names it"
    if rule.newest is not None:
        return f"number {place + 1} of {item.group}, the newest {rule.newest} are kept"
    return None


def _kept(item: Item, used: InUse, now: float) -> str | None:
    """Why an item stays whatever a rule says; None: it may go."""
    if not item.group and now - item.changed < GRACE_S:
        return "written within a day: whoever writes it may be about to name it"
    return used.why(item)


def _beyond(
    items: list[Item],
    most: int,
    newest: set[str],
    against: dict[str, Verdict],
    kept: Callable[[Item], str | None],
) -> None:
    """Let the oldest go until the area holds no more than ``most`` bytes."""
    going = {name for name, verdict in against.items() if verdict.kept is None}
    total = sum(item.size for item in items if item.name not in going)
    for item in sorted(items, key=lambda item: (item.changed, item.name)):
        if total <= most:
            return
        if item.name in newest or item.name in against:
            continue
        reason = f"the area holds {total:,} bytes, at most {most:,} are kept"
        against[item.name] = Verdict(item, reason, kept(item))
        if against[item.name].kept is None:
            total -= item.size


def apply_retention(lake: Lake, plan: Plan, *, tell: Callable[[str], object] = lambda line: None) -> Applied:
    """Remove what a plan says, a partition at a time.

    Args:
        lake: that the plan is of.
        plan: as just made.
        tell: is told a line a partition.

    A partition that cannot be removed costs only itself.
    """
    done = Applied(0, 0, {}, {})
    for (area, partition), verdicts in plan.partitions().items():
        try:
            _remove(lake, area, partition, [verdict.item for verdict in verdicts], done)
        except (TspaceError, OSError) as error:
            done.failed[f"{area} {partition}"] = str(error)
            tell(f"{area} {partition}: nothing removed, {error}")
        else:
            tell(f"{area} {partition}: removed")
    return done


def _remove(lake: Lake, area: str, partition: str, items: list[Item], done: Applied) -> None:
    used = in_use(lake, [area])
    there = []
    for item in items:
        why = used.why(item) or _since(item)
        if why is None:
            there.append(item)
        else:
            done.stayed[item.name] = why
    if not there:
        return
    size = sum(item.size for item in there)
    paths = [path for item in there for path in item.paths]
    if area in _OUTSIDE:
        DIRECT.remove(*paths)
    else:
        with UnitOfWork(lake, name=f"retention of {area} {partition}") as unit:
            unit.remove(*paths)
            values = {"area": area, "partition": partition, "items": len(there), "bytes": size}
            unit.metrics(METRICS, values)
    done.removed += len(there)
    done.size += size


def _since(item: Item) -> str | None:
    """Why an item is not what it was when the plan was made."""
    for path in item.paths:
        if not path.exists():
            return "it is gone already"
        if _changed(path) > item.changed:
            return "it was changed since the plan was made"
    return None


def _changed(path: AnyPath) -> float:
    if isinstance(path, S3Path):
        info = path.info()
        found = [info] if info is not None else [info for _, info in path.objects()]
        return max(info.modified.timestamp() for info in found)
    if path.is_dir():
        return max((file.stat().st_mtime for file in path.rglob("*") if file.is_file()), default=0.0)
    return path.stat().st_mtime
