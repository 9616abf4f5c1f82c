"""What killed writers left behind in MongoDB is finished or removed."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from tspace_core.storage.pools.mongo_commits import DELETE, STORE, Commits, Leftover
from tspace_core.storage.pools.mongo_writer import remove_deleted, unmark

if TYPE_CHECKING:
    from tspace_core.storage.pools.mongo_client import Documents


def leftovers(commits: Commits, older_than_s: float) -> list[Leftover]:
    """Calls that have not been heard of for so long."""
    before = datetime.now(UTC) - timedelta(seconds=older_than_s)
    return [left for left in commits.leftovers() if left.alive <= before]


def sweep(place: str, database: "Documents", commits: Commits, older_than_s: float) -> list[str]:
    """Finish what was committed, remove what was not; what was done, a line each."""
    done = []
    for left in leftovers(commits, older_than_s):
        # From here on a writer that is not dead after all cannot commit any more.
        commit = commits.void(left.batch)
        if left.kind == STORE and commit.kind != STORE:
            episodes = database["episodes"].delete_many({"batch": left.batch}).deleted_count
            records = database["records"].delete_many({"batch": left.batch}).deleted_count
            done.append(
                f"{place}: removed {records} records and {episodes} episodes of batch {left.batch}, which "
                f"{left.by} did not finish"
            )
        elif left.kind == DELETE and commit.kind == DELETE:
            removed = remove_deleted(database, left.batch)
            done.append(f"{place}: removed the last {removed} of the episodes that {left.by} deleted")
        elif left.kind == DELETE:
            unmark(database, left.batch)
            done.append(f"{place}: left the episodes that {left.by} was about to delete")
        else:
            done.append(f"{place}: batch {left.batch} of {left.by} was complete")
        commits.end(left.batch)
    return done
