"""Fitted Q evaluation: what a policy would have earned on recorded episodes. An estimate, never a proof.

Q of the policy is fitted on recorded steps by regression of ``r + gamma Q(s', pi(s'))``, again and again (Le,
Voloshin, Yue 2019, arXiv:1903.08738), linear in fixed features: so the fit is deterministic and small, and
its uncertainty can be had by drawing whole episodes anew and fitting each time (Hao et al. 2021,
arXiv:2102.03607). Beside it the same is done for the recorded actions: of the two only the difference is of
interest, since the errors of the features are in both.

Where it says little, and what tells so:

- the policy proposes what was never done (``coverage``, ``distance``): there the features extrapolate;
- the recorded actions hardly differ, or follow from the state: nothing separates their effect;
- the driver is part of the recorded world: a driver on the road would answer another map with other pedals,
  which closed-loop drives show and this does not.

Features: the state, normalised, in its first principal components; the action as one number a band of the
pedal axis; both as they are and in random Fourier features (Rahimi, Recht 2007).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from tspace_core.config.base import ConfigModel
from tspace_core.errors import RecordError
from tspace_core.evaluation.statistics import LEVEL, Interval
from tspace_core.records.policy import ACTION_COLUMNS, InformedPolicy, Policy, StatefulPolicy

if TYPE_CHECKING:
    from tspace_core.storage.replay import Replay

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]

BANDS = (0.0, 0.12, 0.3, 0.6, 1.0)
"""Pedal positions at which an action is looked at."""
NEAR = 2.0
"""Standard deviations of the recorded actions within which a proposed one counts as covered."""
LEAST_COVERAGE = 0.8
"""Below this share of covered proposals the estimate is called unsupported."""
LEAST_SPREAD = 1e-3
"""Recorded actions that differ by less, in budgets, do not differ."""
_ROUNDS = 3000
_DONE = 1e-9
_PCA_ROWS = 5000
_FIELDS = ("square", "cross", "target", "first", "records", "episodes")


class FittedQ(ConfigModel):
    """How an estimate is made; bounded in time and memory whatever the size of the buffer."""

    gamma: float = 0.99
    components: int = 12
    """Principal components of the state."""
    features: int = 96
    """Random Fourier features."""
    ridge: float = 1e-3
    """Of the regression, per record."""
    resamples: int = 200
    clusters: int = 200
    """Episodes are drawn in at most so many groups of neighbours."""
    most_records: int = 10_000
    """Of a larger buffer as many whole episodes, evenly chosen, as hold about so many records."""
    seed: int = 0


@dataclass(frozen=True, eq=False)
class RecordedEpisode:
    """One recorded drive.

    Attributes:
        states: (n + 1, state_dim), the last observation included.
        actions: (n, action_dim) that were carried out.
        rewards: (n,).
        terminal: whether it truly ended, rather than that recording stopped.
    """

    states: Floats
    actions: Floats
    rewards: Floats
    terminal: bool


class OffPolicyEstimate(BaseModel):
    """What recorded episodes say about a policy that did not drive them.

    Values are discounted sums of rewards from an episode's first step, in the reward's unit; intervals are
    bootstrap intervals over episodes and hold only the scatter of the data, not the error of the features.
    """

    model_config = ConfigDict(frozen=True)

    policy: Interval | None
    """None: the fit did not settle."""
    recorded: Interval | None
    """The same estimate for the actions that were carried out."""
    difference: Interval | None
    """Policy less recorded, from the same draws."""
    observed: float
    """Mean discounted sum of the recorded rewards as they are, cut off where recording stopped."""
    gamma: float
    episodes: int
    records: int
    coverage: float
    """Share of the proposals within ``NEAR`` standard deviations of the recorded actions, in every band."""
    distance: float
    """Root mean square distance of proposed from recorded actions at the same states, in budgets."""
    spread: float
    """Largest standard deviation of the recorded actions over the bands, in budgets."""
    caveats: tuple[str, ...]

    @property
    def supported(self) -> bool:
        """Whether the data are near enough to the policy for the estimate to mean something."""
        return self.policy is not None and self.spread > LEAST_SPREAD and self.coverage >= LEAST_COVERAGE

    @property
    def sentence(self) -> str:
        """For people; it never says more than the data do."""
        if self.difference is None:
            return "The fit on the recorded episodes did not settle; nothing is estimated."
        what = "Estimate only" if self.supported else "Not supported by the data"
        low_high = self.difference.bounds_text()
        return (
            f"{what}: against the recorded actions the policy is valued {self.difference.mean:+.3g} "
            f"{low_high} in the reward's unit, discounted by {self.gamma:g}, over {self.episodes} episodes."
        )


def estimate_policy(
    episodes: Sequence[RecordedEpisode], policy: Policy, settings: FittedQ | None = None
) -> OffPolicyEstimate:
    """Estimate what ``policy`` would have earned on recorded episodes.

    Args:
        episodes: at least one; of equal dimensions.
        policy: one with a memory is led through each episode with its recorded rewards and actions.
        settings: features and limits.

    Raises:
        RecordError: no episode, other dimensions, or values that are not finite.
        AgentError: the policy does not fit the states.
    """
    settings = settings or FittedQ()
    _check(episodes)
    proposed = _proposals(episodes, policy)
    features = _Features(episodes, proposed, settings)
    groups = np.array_split(np.arange(len(episodes)), min(settings.clusters, len(episodes)))
    moments = [
        _Moments.of([(episodes[i], proposed[i]) for i in group], features, settings) for group in groups
    ]
    generator = np.random.default_rng([settings.seed, 1])
    whole = np.ones(len(groups))
    draws = [
        np.bincount(generator.integers(0, len(groups), len(groups)), minlength=len(groups)).astype(np.float64)
        for _ in range(settings.resamples if len(groups) > 1 else 0)
    ]
    value = _value(moments, whole, settings)
    drawn = [_value(moments, draw, settings) for draw in draws]
    coverage, distance, spread = _support(episodes, proposed, features)
    policy_interval, recorded, difference = (
        _interval([pair[i] for pair in drawn], value[i], len(episodes)) for i in range(3)
    )
    records = sum(len(item.rewards) for item in episodes)
    return OffPolicyEstimate(
        policy=policy_interval,
        recorded=recorded,
        difference=difference,
        observed=_observed(episodes, settings.gamma),
        gamma=settings.gamma,
        episodes=len(episodes),
        records=records,
        coverage=coverage,
        distance=distance,
        spread=spread,
        caveats=_caveats(len(episodes), coverage, spread, settled=policy_interval is not None),
    )


def recorded_episodes(replay: "Replay", settings: FittedQ | None = None) -> list[RecordedEpisode]:
    """Whole episodes of a replay buffer, evenly chosen where it is larger than ``most_records``."""
    settings = settings or FittedQ()
    index = replay.index
    places = [index.rows(position) for position in range(index.low, index.high)]
    ends = np.cumsum([place.length for place in places])
    share = min(1.0, settings.most_records / max(int(ends[-1]) if len(ends) else 0, 1))
    count = max(1, round(share * len(places)))
    chosen = sorted({round(i) for i in np.linspace(0, len(places) - 1, count)}) if places else []
    found = []
    for i in chosen:
        length = places[i].length
        batch = replay.pick(np.arange(ends[i] - length, ends[i]))
        found.append(
            RecordedEpisode(
                states=np.concatenate([batch.states, batch.next_states[-1:]]),
                actions=batch.actions,
                rewards=batch.rewards,
                terminal=bool(batch.terminals[-1]),
            )
        )
    return found


def _check(episodes: Sequence[RecordedEpisode]) -> None:
    if not episodes:
        message = "no recorded episode to estimate on; build a replay buffer from episodes first"
        raise RecordError(message)
    first = episodes[0]
    for number, item in enumerate(episodes):
        n = len(item.rewards)
        shapes = (n + 1, first.states.shape[1]), (n, first.actions.shape[1])
        if n == 0 or (item.states.shape, item.actions.shape) != shapes:
            message = (
                f"episode {number} has states {item.states.shape}, actions {item.actions.shape} and {n} "
                f"rewards, expected {shapes[0]}, {shapes[1]} and at least one"
            )
            raise RecordError(message)
        if not all(np.isfinite(values).all() for values in (item.states, item.actions, item.rewards)):
            message = f"episode {number} holds values that are not finite; leave it out"
            raise RecordError(message)


def _proposals(episodes: Sequence[RecordedEpisode], policy: Policy) -> list[Floats]:
    """The policy's actions at all states of each episode, (n + 1, action_dim)."""
    if not isinstance(policy, StatefulPolicy):
        return [np.asarray(policy(item.states), np.float32) for item in episodes]
    # All episodes go on side by side; one that is over repeats its last state.
    longest = max(len(item.states) for item in episodes)
    answers = np.empty((len(episodes), longest, episodes[0].actions.shape[1]), np.float32)
    policy.begin(len(episodes))
    for step in range(longest):
        states = np.stack([item.states[min(step, len(item.states) - 1)] for item in episodes])
        rewards = None
        if step:
            rewards = np.array(
                [item.rewards[step - 1] if step <= len(item.rewards) else 0.0 for item in episodes],
                np.float32,
            )
        answers[:, step] = policy(states, rewards)
        if isinstance(policy, InformedPolicy):
            policy.carried_out(
                np.stack([item.actions[min(step, len(item.actions) - 1)] for item in episodes])
            )
    return [answers[i, : len(item.states)] for i, item in enumerate(episodes)]


class _Features:
    """Fixed features of states and actions."""

    def __init__(
        self, episodes: Sequence[RecordedEpisode], proposed: Sequence[Floats], settings: FittedQ
    ) -> None:
        from tspace_core.agents.action_basis import ActionBasis

        generator = np.random.default_rng([settings.seed, 0])
        states = _some(np.concatenate([item.states for item in episodes]))
        self._mean, self._std = states.mean(axis=0), np.maximum(states.std(axis=0), 1e-6)
        normal = (states - self._mean) / self._std
        _, values, axes = np.linalg.svd(normal, full_matrices=False)
        kept = axes[: settings.components][values[: settings.components] > 1e-6 * max(values[0], 1e-12)]
        self._axes = kept.T if len(kept) else np.zeros((normal.shape[1], 1))
        self._scale = np.maximum((normal @ self._axes).std(axis=0), 1e-6)
        action_dim = episodes[0].actions.shape[1]
        bands = BANDS if action_dim % ACTION_COLUMNS == 0 else ()
        self._basis = ActionBasis(action_dim, bands)
        codes = np.concatenate(
            [
                self.codes(each)
                for pair in zip(episodes, proposed, strict=True)
                for each in (pair[0].actions, pair[1])
            ]
        )
        self._code_mean, self._code_std = codes.mean(axis=0), np.maximum(codes.std(axis=0), 1e-3)
        size = self._axes.shape[1] + self._basis.size
        self._frequencies = generator.normal(size=(size, settings.features)) / np.sqrt(size)
        self._phases = generator.uniform(0.0, 2.0 * np.pi, settings.features)

    def codes(self, actions: Floats) -> Doubles:
        """(n, bands) of actions (n, action_dim)."""
        return self._basis.project(actions).astype(np.float64)

    def __call__(self, states: Floats, actions: Floats) -> Doubles:
        """(n, size) of states (n, state_dim) and actions (n, action_dim)."""
        place = ((states.astype(np.float64) - self._mean) / self._std) @ self._axes / self._scale
        code = (self.codes(actions) - self._code_mean) / self._code_std
        z = np.concatenate([place, code], axis=1)
        waves = np.cos(z @ self._frequencies + self._phases) * np.sqrt(2.0 / len(self._phases))
        return np.concatenate([np.ones((len(z), 1)), z, waves], axis=1)


@dataclass(frozen=True, eq=False)
class _Side:
    """Sums of one group of episodes for one kind of next actions."""

    square: Doubles
    cross: Doubles
    target: Doubles
    first: Doubles
    records: int
    episodes: int


@dataclass(frozen=True, eq=False)
class _Moments:
    """Sums of one group of episodes, for the policy and for the recorded actions."""

    policy: _Side
    recorded: _Side

    @classmethod
    def of(
        cls, group: Sequence[tuple[RecordedEpisode, Floats]], features: _Features, settings: FittedQ
    ) -> "_Moments":
        sides: list[list[_Side]] = [[], []]
        for item, own in group:
            now = features(item.states[:-1], item.actions)
            n = len(now)
            going_on = np.ones(n)
            going_on[-1] = float(not item.terminal)
            after = features(item.states[1:], own[1:]) * (settings.gamma * going_on)[:, None]
            start = features(item.states[:1], own[:1])[0]
            sides[0].append(_side(now, after, item.rewards, start))
            # What was done after the last record is not known, so that record says nothing of the recorded
            # actions unless the episode truly ended there.
            last = n if item.terminal else n - 1
            following = np.zeros_like(now)
            following[:-1] = settings.gamma * now[1:]
            sides[1].append(_side(now[:last], following[:last], item.rewards[:last], now[0]))
        return cls(*(_sum(each) for each in sides))


def _side(now: Doubles, after: Doubles, rewards: Floats, start: Doubles) -> _Side:
    return _Side(now.T @ now, now.T @ after, now.T @ rewards.astype(np.float64), start, len(now), 1)


def _sum(sides: Sequence[_Side]) -> _Side:
    return _Side(
        *(sum((getattr(side, name) for side in sides[1:]), getattr(sides[0], name)) for name in _FIELDS)
    )


def _value(
    moments: Sequence[_Moments], weights: Doubles, settings: FittedQ
) -> tuple[float | None, float | None, float | None]:
    """Values of the policy and of the recorded actions, and their difference; None: no fit."""
    policy = _fit([item.policy for item in moments], weights, settings)
    recorded = _fit([item.recorded for item in moments], weights, settings)
    difference = None if policy is None or recorded is None else policy - recorded
    return policy, recorded, difference


def _fit(sides: Sequence[_Side], weights: Doubles, settings: FittedQ) -> float | None:
    pairs = [(side, weight) for side, weight in zip(sides, weights, strict=True) if weight]
    square, cross, target, first = (
        sum(weight * getattr(side, name) for side, weight in pairs) for name in _FIELDS[:4]
    )
    records = sum(weight * side.records for side, weight in pairs)
    if not records:
        return None
    regular = square + settings.ridge * records * np.eye(len(target)) / len(target)
    step, begin = np.linalg.solve(regular, cross), np.linalg.solve(regular, target)
    theta = begin
    for _ in range(_ROUNDS):
        newer = begin + step @ theta
        change = float(np.abs(newer - theta).max())
        theta = newer
        if not np.isfinite(change) or change > 1e12:
            return None
        if change <= _DONE * max(1.0, float(np.abs(theta).max())):
            break
    else:
        return None
    return float(first @ theta) / float(sum(weight * side.episodes for side, weight in pairs))


def _interval(drawn: Sequence[float | None], value: float | None, episodes: int) -> Interval | None:
    if value is None:
        return None
    settled = [each for each in drawn if each is not None]
    low = high = None
    if drawn and len(settled) >= 0.95 * len(drawn):
        tail = (1.0 - LEVEL) / 2.0
        low, high = (float(bound) for bound in np.quantile(settled, [tail, 1.0 - tail]))
    return Interval(mean=value, low=low, high=high, count=episodes, level=LEVEL, method="cluster_bootstrap")


def _support(
    episodes: Sequence[RecordedEpisode], proposed: Sequence[Floats], features: _Features
) -> tuple[float, float, float]:
    recorded = np.concatenate([features.codes(item.actions) for item in episodes])
    wanted = np.concatenate([features.codes(own[:-1]) for own in proposed])
    mean, std = recorded.mean(axis=0), recorded.std(axis=0)
    near = np.abs(wanted - mean) <= NEAR * std + LEAST_SPREAD
    squares = np.concatenate(
        [((own[:-1] - item.actions) ** 2).mean(axis=1) for item, own in zip(episodes, proposed, strict=True)]
    )
    return float(near.all(axis=1).mean()), float(np.sqrt(squares.mean())), float(std.max())


def _observed(episodes: Sequence[RecordedEpisode], gamma: float) -> float:
    sums = [
        float(item.rewards.astype(np.float64) @ gamma ** np.arange(len(item.rewards))) for item in episodes
    ]
    return float(np.mean(sums))


def _caveats(episodes: int, coverage: float, spread: float, *, settled: bool) -> tuple[str, ...]:
    found = [
        "It is an estimate from drives that others drove; only closed-loop drives show a saving.",
        "The recorded drivers answer the recorded map; to another map they would answer with other pedals.",
    ]
    if not settled:
        found.append("The fit did not settle: the policy is too far from what was recorded.")
    if spread <= LEAST_SPREAD:
        found.append("The recorded actions do not differ, so the data say nothing about other actions.")
    elif coverage < LEAST_COVERAGE:
        found.append(
            f"Only {100 * coverage:.0f} % of the proposed actions are near what was recorded (needed: "
            f"{100 * LEAST_COVERAGE:.0f} %); for the others the estimate extrapolates."
        )
    if episodes < 10:
        found.append(f"{episodes} episodes are few for an interval.")
    return tuple(found)


def _some(rows: Floats) -> Doubles:
    every = max(1, len(rows) // _PCA_ROWS)
    return rows[::every].astype(np.float64)
