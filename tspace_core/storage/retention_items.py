"""What retention may remove, area by area: each item whole, with its size and its last change."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG

from tspace_core.config.loading import vehicle_ids
from tspace_core.objects.path import AnyPath, S3Path, relative
from tspace_core.storage.lake import JOURNAL_SUFFIX, ORIGIN_SUFFIX, Lake

MANIFEST = "manifest.json"
REASON_SUFFIX = ".reason.json"


@dataclass(frozen=True)
class Item:
    """Files that go together or stay together."""

    area: str
    partition: str
    """Removed together with the others of its partition: one unit of work."""
    name: str
    """Unique in its area."""
    paths: tuple[AnyPath, ...]
    """Files, or one folder."""
    size: int
    """Bytes."""
    changed: float
    """When one of its files was changed last, s since 1970 UTC."""
    group: str
    """Whose newest ones may stay: a replay buffer, the runs of a vehicle, ...; "": only what is in use."""


@dataclass(frozen=True)
class _File:
    path: AnyPath
    parts: tuple[str, ...]
    size: int
    changed: float


def items_of(area: str, lake: Lake, out_dir: Path | None) -> list[Item]:
    """All items of an area; nothing is opened."""
    return list(_LISTS[area](lake, out_dir))


def _files(folder: AnyPath) -> list[_File]:
    """Files below, but for hidden ones: those are being written."""
    found: list[tuple[AnyPath, int, float]] = []
    if isinstance(folder, S3Path):
        found = [(path, info.size, info.modified.timestamp()) for path, info in folder.objects()]
    elif folder.is_dir():
        for path in folder.rglob("*"):
            with suppress(FileNotFoundError):  # somebody else has just removed it
                stat = path.stat()
                if S_ISREG(stat.st_mode):
                    found.append((path, stat.st_size, stat.st_mtime))
    else:
        return []
    files = (_File(p, tuple(relative(p, folder).split("/")), size, at) for p, size, at in found)
    return [file for file in files if not any(part.startswith(".") for part in file.parts)]


def _item(
    area: str,
    partition: str,
    name: str,
    files: Iterable[_File],
    *,
    group: str | None = None,
    folder: AnyPath | None = None,
) -> Item:
    known = list(files)
    return Item(
        area=area,
        partition=partition,
        name=name,
        paths=(folder,) if folder is not None else tuple(file.path for file in known),
        size=sum(file.size for file in known),
        changed=max(file.changed for file in known),
        group=partition if group is None else group,
    )


def _quarantine(lake: Lake, _: Path | None) -> Iterable[Item]:
    files = {str(file.path): file for file in _files(lake.root / "quarantine")}
    for name, file in files.items():
        reason = files.get(f"{name}{REASON_SUFFIX}")
        whole = name.removesuffix(REASON_SUFFIX)
        if whole == name or whole not in files:  # a reason alone: its file was never moved here, or is gone
            known = [file] if reason is None else [file, reason]
            yield _item("quarantine", file.parts[0], "/".join(file.parts), known)


def _folders(
    lake: Lake, area: str, depth: int, below: tuple[str, ...] = ()
) -> Iterable[tuple[AnyPath, tuple[str, ...], list[_File]]]:
    root = lake.root.joinpath(area, *below)
    found: dict[tuple[str, ...], list[_File]] = defaultdict(list)
    for file in _files(root):
        if len(file.parts) > depth:
            found[file.parts[:depth]].append(file)
    for parts, files in found.items():
        yield root.joinpath(*parts), parts, files


def _replay(lake: Lake, _: Path | None) -> Iterable[Item]:
    for folder, (name, version), files in _folders(lake, "replay", 2):
        if version.isdigit() and any(file.parts[2:] == (MANIFEST,) for file in files):
            yield _item("replay", name, f"{name}/{version}", files, folder=folder)


def _checkpoints(lake: Lake, _: Path | None) -> Iterable[Item]:
    vehicles = sorted(vehicle_ids(), key=len, reverse=True)
    for folder, (agent, run), files in _folders(lake, "checkpoints", 2):
        if agent == "champion":
            copies: dict[str, list[_File]] = defaultdict(list)
            for file in files:
                if len(file.parts) > 3:
                    copies[file.parts[2]].append(file)
            for content, known in copies.items():
                name = f"champion/{run}/{content}"
                yield _item("checkpoints", f"champion/{run}", name, known, group="", folder=folder / content)
            continue
        vehicle = next((name for name in vehicles if run.startswith(f"{name}-")), run)
        yield _item(
            "checkpoints",
            f"{agent}/{run}",
            f"{agent}/{run}",
            files,
            group=f"{agent}/{vehicle}",
            folder=folder,
        )


def _by_day(area: str) -> Callable[[Lake, Path | None], Iterable[Item]]:
    def listed(lake: Lake, _: Path | None) -> Iterable[Item]:
        for file in _files(lake.root / area):
            if len(file.parts) == 3 and file.path.suffix == ".parquet":
                vehicle, day = (part.partition("=")[2] for part in file.parts[:2])
                name = f"{vehicle}/{day}/{file.parts[2].removesuffix('.parquet')}"
                yield _item(area, f"{vehicle}/{day}", name, [file], group=vehicle)

    return listed


def _raw(lake: Lake, _: Path | None) -> Iterable[Item]:
    files = {str(file.path): file for file in _files(lake.root / "raw") if len(file.parts) == 3}
    for name, file in files.items():
        if not name.endswith((JOURNAL_SUFFIX, ORIGIN_SUFFIX)):
            beside = [
                files[f"{name}{end}"] for end in (JOURNAL_SUFFIX, ORIGIN_SUFFIX) if f"{name}{end}" in files
            ]
            yield _item(
                "raw", "/".join(file.parts[:2]), "/".join(file.parts), [file, *beside], group=file.parts[0]
            )


def _embeddings(lake: Lake, _: Path | None) -> Iterable[Item]:
    for folder, (name,), files in _folders(lake, "embeddings", 1):
        vehicle, _dot, rest = name.removesuffix(".lance").rpartition(".")
        if name.endswith(".lance") and vehicle and rest:
            yield _item("embeddings", vehicle, name, files, group="", folder=folder)
    for folder, (vehicle, encoder), files in _folders(lake, "embeddings", 2, ("encoders",)):
        name = f"encoders/{vehicle}/{encoder}"
        yield _item("embeddings", vehicle, name, files, group="", folder=folder)


def _metrics(lake: Lake, _: Path | None) -> Iterable[Item]:
    for file in _files(lake.root / "metrics"):
        if len(file.parts) == 2:
            yield _item("metrics", file.parts[0], "/".join(file.parts), [file])


def _reports(_: Lake, out_dir: Path | None) -> Iterable[Item]:
    if out_dir is not None:
        for folder in sorted(out_dir.iterdir()) if out_dir.is_dir() else []:
            files = _files(folder) if folder.is_dir() else []
            if files:
                yield _item("reports", "reports", folder.name, files, folder=folder)


def _caches(lake: Lake, _: Path | None) -> Iterable[Item]:
    for file in _files(lake.local / "index"):
        if file.path.name.endswith(".sqlite"):
            with_ = [
                other for other in _files(lake.local / "index") if other.path.name.startswith(file.path.name)
            ]
            yield _item("caches", "index", file.path.name, with_)


_LISTS: dict[str, Callable[[Lake, Path | None], Iterable[Item]]] = {
    "quarantine": _quarantine,
    "replay": _replay,
    "checkpoints": _checkpoints,
    "frames": _by_day("frames"),
    "policy_actions": _by_day("policy_actions"),
    "embeddings": _embeddings,
    "metrics": _metrics,
    "reports": _reports,
    "caches": _caches,
    "raw": _raw,
}
