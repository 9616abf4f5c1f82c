"""A learner goes on from a checkpoint as that was trained; where it cannot, the run drives on and says so."""

from pathlib import Path

import numpy as np
import pytest

from tests.agents.batches import SMALL
from tests.online.avatars import CoreLearner, Run
from tests.online.builders import small_vehicle
from tests.online.fake_car import applied, episode
from tspace_core.agents import DDPG, Checkpoint, load_agent
from tspace_core.agents.dpg import SCHEDULE
from tspace_core.config import DDPGHyperparameters, load_hyperparameters
from tspace_core.errors import OnlineError
from tspace_core.online.agent_choice import as_trained, choose
from tspace_core.online.avatar import Avatar, AvatarOptions
from tspace_core.online.driver_agent import fresh_agent
from tspace_core.storage.champion import Champion, release
from tspace_core.storage.lake import Lake
from tspace_core.vehicle.interface import FlashOutcomeView, RowsProposal
from tspace_core.vehicle.stream import StreamItem

TRUCK = small_vehicle()
OTHER = SMALL.model_copy(
    update={
        "gamma": 0.5,
        "actor_hidden": (7,),
        "action_bands": (0.0, 0.5, 1.0),
        "critic_learning_rate": 3e-4,
        "updates_per_episode": 99,
        "seed": 5,
    }
)
"""Other networks, another meaning of their values, another schedule than SMALL."""


def put_release(root: Path, hyper: DDPGHyperparameters = OTHER, *, whole: bool = True) -> Champion:
    agent, folder = fresh_agent(TRUCK, hyper, None), root / "trained"
    if whole:
        agent.save(folder)
    else:
        agent.save_policy(folder)
    return release(Lake(root), TRUCK, folder, by="test", loads=load_agent)


def script(*numbers: int) -> list[StreamItem]:
    return [item for number in numbers for item in episode(TRUCK, number, 9)]


def test_only_the_schedule_is_not_the_checkpoint_s(tmp_path: Path) -> None:
    DDPG(OTHER, 9, 68).save(tmp_path / "c")
    found = as_trained(SMALL, tmp_path / "c")
    assert found == OTHER.model_copy(update={name: getattr(SMALL, name) for name in SCHEDULE})


def test_a_run_learns_on_from_a_release_that_was_trained_otherwise(tmp_path: Path) -> None:
    """A whole run with its learner's process; the next one goes on with what this one has learned."""
    released, lake = put_release(tmp_path), Lake(tmp_path)
    run = Run(tmp_path, script(1), hyper=None)
    options = AvatarOptions(track=False)
    summary = Avatar(TRUCK, lake, options, on_episode=run.results.append, car=run._car).run()
    (note,) = summary.notes
    assert note.startswith(
        f"what is learned goes on as {released.checkpoint} was trained, with gamma 0.5 (not"
    )
    assert "actor_hidden (7,) (not (256, 256))" in note
    assert "updates_per_episode" not in note
    learned = run.results[0].learned
    assert learned is not None and learned.checkpoint is not None
    assert learned.updates > 0
    hyper = Checkpoint(learned.checkpoint).manifest.hyperparameters
    assert (hyper["gamma"], hyper["seed"]) == (0.5, 5)
    assert hyper["updates_per_episode"] == load_hyperparameters("ddpg").updates_per_episode
    again = choose(lake, TRUCK, infer=False)
    assert again.checkpoint == summary.checkpoint == learned.checkpoint
    assert again.hyper.gamma == 0.5


def test_a_release_meanwhile_that_was_trained_otherwise_is_learned_on(tmp_path: Path) -> None:
    def answer(proposal: RowsProposal) -> FlashOutcomeView:
        if len(run.car.proposals) == 1:
            put_release(tmp_path)
        return applied(proposal)

    run = Run(tmp_path, script(1, 2), answer=answer, kind=CoreLearner)
    summary = run.avatar.run()
    assert summary.episodes == 2
    first, second = run.learners
    assert first.spec.hyper == SMALL
    assert second.spec.hyper.gamma == OTHER.gamma
    assert second.spec.hyper.updates_per_episode == SMALL.updates_per_episode
    assert ("end", 2, True) in second.calls
    assert "with gamma 0.5 (not" in summary.notes[0]
    assert summary.unlearned == 0


@pytest.mark.parametrize("meanwhile", [False, True])
def test_a_release_that_cannot_be_learned_on_drives(tmp_path: Path, meanwhile: bool) -> None:
    """It holds the policy alone: no critic, no optimizers."""
    released: list[Champion] = [] if meanwhile else [put_release(tmp_path, whole=False)]

    def answer(proposal: RowsProposal) -> FlashOutcomeView:
        if not released:
            released.append(put_release(tmp_path, whole=False))
        return applied(proposal)

    run = Run(tmp_path, script(1, 2), answer=answer, kind=CoreLearner, hyper=OTHER)
    summary = run.avatar.run()
    assert (summary.episodes, summary.failed) == (2, False)
    (note,) = summary.notes
    assert f"note: {note}" in run.lines
    assert note.startswith(
        f"{released[0].checkpoint} drives and nothing is learned: the learner of twin_truck"
    )
    assert "release an agent that can be learned on, and begin the run again" in note
    assert len(run.learners) == 1 + meanwhile
    assert [result.learned is None for result in run.results] == [not meanwhile, True]
    assert summary.unlearned > 0
    # Both episodes are in the lake: what is driven can be learned from offline.
    assert all(result.summary.records == 4 for result in run.results)
    assert len(Lake(tmp_path).episodes()) == 2


def test_the_next_release_is_learned_on_again(tmp_path: Path) -> None:
    put_release(tmp_path, whole=False)

    def answer(proposal: RowsProposal) -> FlashOutcomeView:
        if len(run.car.proposals) == 1:
            (tmp_path / "trained").rename(tmp_path / "before")
            put_release(tmp_path, OTHER.model_copy(update={"seed": 8}))
        return applied(proposal)

    run = Run(tmp_path, script(1, 2), answer=answer, kind=CoreLearner, hyper=OTHER)
    summary = run.avatar.run()
    assert summary.episodes == 2
    assert [result.learned is None for result in run.results] == [True, False]
    assert len(summary.notes) == 2


def test_a_learner_that_cannot_begin_with_fresh_networks_is_an_error(tmp_path: Path) -> None:
    hyper = SMALL.model_copy(update={"gamma": 0.1})
    shaped = TRUCK.model_copy(
        update={"reward": TRUCK.reward.model_copy(update={"kind": "energy_shaped", "gamma": 0.9})}
    )
    run = Run(tmp_path, script(1), vehicle=shaped, kind=CoreLearner, hyper=hyper)
    with pytest.raises(OnlineError, match=r"cannot begin: .* shaped for gamma 0\.9"):
        run.avatar.run()
    assert run.cars == []


def test_a_run_of_its_own_goes_on_whatever_is_trained_offline_since(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    own = choose(lake, TRUCK, infer=False, hyper=SMALL).run
    fresh_agent(TRUCK, SMALL, None).save(lake.checkpoints("ddpg", own) / "00000005")
    fresh_agent(TRUCK, OTHER, None).save(lake.checkpoints("ddpg", "offline") / "00000100")
    pointer = lake.checkpoints("ddpg", f"{TRUCK.id}.json")
    pointer.write_text('{"run": "offline", "step": 100}')
    found = choose(lake, TRUCK, infer=False, hyper=SMALL)
    assert (found.run, found.hyper, found.notes) == (own, SMALL, ())
    assert found.checkpoint is not None and found.checkpoint.name == "00000005"
    other = choose(lake, TRUCK, infer=False, hyper=SMALL.model_copy(update={"tau": 0.3}))
    assert (other.hyper.gamma, other.run == own) == (0.5, False)
    assert np.array_equal(other.hyper.action_bands, OTHER.action_bands)
