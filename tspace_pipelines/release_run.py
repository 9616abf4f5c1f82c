"""Release of what was evaluated last."""

from tspace_core.config import Vehicle
from tspace_core.config.release import load_release_bar
from tspace_core.errors import ReleaseError
from tspace_core.evaluation.release_bar import Evidence, approve, judge_release, latest_evidence, passed
from tspace_core.objects.path import AnyPath, S3Path, any_path
from tspace_core.storage.champion import Champion
from tspace_core.storage.lake import Lake


def release_best(lake: Lake, vehicle: Vehicle, *, agent: str = "", by: str) -> Champion:
    """Release the best agent of the newest evaluation that clears the bar.

    The best is the one that saves most; one that does not clear the bar makes room for the next. What is
    released is what was driven: the files' hash is compared.

    Args:
        lake: with the evidence and the checkpoints.
        vehicle: whose champion.
        agent: the kind of agent to be released; default: any.
        by: who releases.

    Raises:
        ReleaseError: nothing was evaluated, or nothing clears the bar; says by what.
        CheckpointError: the checkpoint is gone, damaged, or not what was driven.
    """
    from tspace_core.agents.release import release_agent

    evidence = latest_evidence(lake, vehicle.id)
    if not evidence:
        message = f"no agent of {vehicle.id} was driven in a twin: materialize policy_evaluation first"
        raise ReleaseError(message)
    wanted = [item for item in evidence if agent in ("", item.agent)]
    if not wanted:
        kinds = ", ".join(item.agent for item in evidence)
        message = f"the newest evaluation of {vehicle.id} has no {agent} agent, only {kinds}"
        raise ReleaseError(message)
    bar = load_release_bar()
    chosen = next((item for item in wanted if passed(judge_release(item, bar))), wanted[0])
    checkpoint = checkpoint_of(lake, chosen)
    grounds = approve(lake, vehicle, checkpoint, bar)
    return release_agent(lake, vehicle, checkpoint, by=by, grounds=grounds)


def checkpoint_of(lake: Lake, evidence: Evidence) -> AnyPath:
    """Where the checkpoint that was driven lies."""
    path = any_path(evidence.checkpoint)
    outside = isinstance(path, S3Path) or path.is_absolute()
    return path if outside else lake.root / evidence.checkpoint
