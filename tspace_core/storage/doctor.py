"""What is wrong with a lake, and the repair of what can be repaired without losing anything.

One module a group of findings: ``doctor_staged`` what killed writers left, ``doctor_files`` files and
manifests, ``doctor_stores`` replay, checkpoints and what is derived. Looking changes nothing. Repairing does
what is committed, removes what no reader ever saw and makes anew what is derived; all else is for a person.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from tspace_core.errors import TspaceError
from tspace_core.storage.lake import Lake


@dataclass(frozen=True)
class Finding:
    """Something wrong.

    Attributes:
        kind: in a word or two; the same for the same kind of thing.
        place: path, or URL of a store.
        what: is wrong: value, limit, expected form.
        todo: what a person does, with the command.
        repairable: ``repair`` puts it right.
        repaired: it has just been put right.
    """

    kind: str
    place: str
    what: str
    todo: str
    repairable: bool = False
    repaired: bool = False


REPAIR = "tspace doctor --repair"
Found = tuple[Finding, Callable[[], object] | None]
"""A finding, and what puts it right."""
Look = Callable[[Lake], Iterable[Found]]


def examine(
    lake: Lake,
    *,
    repair: bool = False,
    databases: Sequence[str] = (),
    tell: Callable[[str], object] = lambda line: None,
) -> list[Finding]:
    """Look at everything in a lake, and read all of it once.

    Args:
        lake: which.
        repair: put right what can be; without it nothing is changed.
        databases: pools on the MongoDB server of the settings; none: the one that its URI names, if any.
        tell: is told what is being looked at.

    Returns:
        What is wrong, in the order in which it is looked for; what was put right is marked.
    """
    return [_settled(finding, put_right, repair=repair) for finding, put_right in _all(lake, databases, tell)]


def _all(lake: Lake, databases: Sequence[str], tell: Callable[[str], object]) -> Iterator[Found]:
    from tspace_core.storage import doctor_files, doctor_staged, doctor_stores

    looks: list[tuple[str, Look]] = [
        ("units of work", doctor_staged.units),
        ("what killed writers left", doctor_staged.leftovers),
        ("raw logs", doctor_files.raw_logs),
        ("frames and signals", doctor_files.tables),
        ("episodes", doctor_files.episodes),
        ("JSON files", doctor_files.json_files),
        ("foreign files", doctor_files.foreign),
        ("replay buffers", doctor_stores.replays),
        ("checkpoints", doctor_stores.checkpoints),
        ("catalogue and indexes", doctor_stores.derived),
        ("MongoDB", partial(doctor_stores.mongo, databases)),
    ]
    for what, look in looks:
        tell(f"looking at {what}")
        # Each group is looked at when the one before was put right.
        try:
            yield from look(lake)
        except (TspaceError, OSError) as error:
            yield Finding("cannot be looked at", str(lake.root), f"{what}: {error}", "see there"), None


def _settled(finding: Finding, put_right: Callable[[], object] | None, *, repair: bool) -> Finding:
    if not repair or put_right is None:
        return finding
    try:
        put_right()
    except (TspaceError, OSError) as error:
        return replace(finding, what=f"{finding.what}; it could not be put right ({error})")
    return replace(finding, repaired=True)
