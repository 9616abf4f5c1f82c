"""What the Avatar and the learner process say to each other.

A frame is ``u32 length of the header | u32 length of the blocks | header | blocks``, all little endian. The
header is a JSON object with ``kind``, the fields of that kind's model, and ``blocks``: names and shapes of
the float32 arrays that follow. Nothing is pickled; what is too long or does not fit its model is an error.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from tspace_core.config import HYPERPARAMETERS, AgentHyperparameters, IDQLHyperparameters, Vehicle
from tspace_core.errors import OnlineError
from tspace_core.objects.fields import PathField
from tspace_core.objects.path import AnyPath
from tspace_core.storage.replay import ReplayBatch
from tspace_core.storage.replay_manifest import ReplayLayout

HEADER_LIMIT = 1 << 20
BLOCKS_LIMIT = 1 << 26
MEMORY = "memory"

_LENGTHS = struct.Struct("<II")

M = TypeVar("M", bound=BaseModel)


def agent_of(hyper: AgentHyperparameters) -> str:
    """Name of the agent that hyperparameters are for.

    Raises:
        OnlineError: there is none.
    """
    for name, model in HYPERPARAMETERS.items():
        if type(hyper) is model:
            return name
    message = f"there is no agent for {type(hyper).__name__}; known are {', '.join(HYPERPARAMETERS)}"
    raise OnlineError(message)


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LearnerSpec(_Message):
    """All that a learner process needs to know; it reads no configuration of its own."""

    vehicle_id: str
    lake: PathField
    agent: str = Field(default="ddpg", description="name of the agent that learns")
    run: str = Field(description="its checkpoints lie in <lake>/checkpoints/<agent>/<run>")
    folder: Path = Field(description="weights, lock and log of this vehicle's learner")
    layout: ReplayLayout = Field(description="what records of this vehicle are made of")
    ranges: tuple[tuple[float, float] | None, ...] = Field(
        description="possible values of each signal of a state: its scale where there is no replay buffer"
    )
    hyper: SerializeAsAny[AgentHyperparameters] = Field(description="of the agent's own model")
    seed: int
    learning: Literal["continuous", "episode_end"] = "continuous"
    weights: Literal["step", "episode"] = "episode"
    updates_per_record: float = Field(default=1.0, ge=0)
    live_share: float = Field(default=0.5, ge=0, le=1)
    live_capacity: int = Field(default=100_000, ge=1)
    start_from: PathField | None = Field(
        default=None, description="checkpoint that a run without checkpoints of its own begins with"
    )

    @classmethod
    def of(
        cls,
        vehicle: Vehicle,
        hyper: AgentHyperparameters,
        *,
        lake: AnyPath,
        folder: Path,
        run: str,
        seed: int | None = None,
        start_from: AnyPath | None = None,
    ) -> "LearnerSpec":
        """The spec of a vehicle's learner, as its file says.

        Args:
            vehicle: whose; its ``online`` section says how to learn.
            hyper: hyperparameters; their model says which agent learns.
            lake: root of the lake.
            folder: ``<data>/online/<vehicle id>/learner``.
            run: name of the run; the same name goes on from its last checkpoint.
            seed: default: that of the hyperparameters.
            start_from: checkpoint to begin with, for example the champion's.
        """
        online, sampling, table = vehicle.online, vehicle.sampling, vehicle.torque_map
        return cls(
            vehicle_id=vehicle.id,
            lake=lake,
            agent=agent_of(hyper),
            run=run,
            folder=folder,
            layout=ReplayLayout(
                state_dim=sampling.state_dim,
                action_dim=vehicle.action_dim,
                rate_hz=sampling.rate_hz,
                window=sampling.window,
                signals=sampling.signals,
                reward_kind=vehicle.reward.kind,
                gamma=vehicle.reward.gamma,
                budget_nm=table.budget_nm,
                pedal_axis=table.pedal_axis,
                speed_axis_kmh=table.speed_axis_kmh,
            ),
            ranges=tuple(
                vehicle.signals[name].clip or vehicle.signals[name].valid for name in sampling.signals
            ),
            hyper=hyper,
            seed=hyper.seed if seed is None else seed,
            learning=online.learning,
            weights=online.weights,
            updates_per_record=online.updates_per_record,
            live_share=(
                1.0 - hyper.offline_share if isinstance(hyper, IDQLHyperparameters) else online.live_share
            ),
            live_capacity=online.live_capacity,
            start_from=start_from,
        )

    @field_validator("agent")
    @classmethod
    def _known(cls, agent: str) -> str:
        if agent not in HYPERPARAMETERS:
            message = f"there is no agent {agent!r}; known are {', '.join(HYPERPARAMETERS)}"
            raise ValueError(message)
        return agent

    @field_validator("hyper", mode="before")
    @classmethod
    def _of_the_agent(cls, hyper: object, info: ValidationInfo) -> object:
        agent = info.data.get("agent")
        return hyper if agent is None else HYPERPARAMETERS[agent].model_validate(hyper)

    @property
    def checkpoints(self) -> AnyPath:
        """Folder of the run's checkpoints."""
        return self.lake / "checkpoints" / self.agent / self.run

    @property
    def weights_folder(self) -> Path:
        """Folder of the versions of weights."""
        return self.folder / "weights"


class Begin(_Message):
    """Avatar to learner, first of all."""

    kind: Literal["begin"] = "begin"
    spec: LearnerSpec
    parent: int = Field(description="process id of the Avatar")


class Records(_Message):
    """Avatar to learner: records of steps that were applied; the blocks are a ``ReplayBatch``'s fields.

    A recurrent agent's have the block ``memory`` beside them: what it remembered before each record.
    """

    kind: Literal["records"] = "records"


class EpisodeEnd(_Message):
    """Avatar to learner: an episode has ended; what is sent later belongs to the next."""

    kind: Literal["episode_end"] = "episode_end"
    number: int
    valid: bool = Field(description="False: its records are forgotten")


class Stop(_Message):
    """Avatar to learner: save the state and end."""

    kind: Literal["stop"] = "stop"


class Waiting(_Message):
    """Learner to Avatar: another learner of this vehicle has not ended yet."""

    kind: Literal["waiting"] = "waiting"
    reason: str


class LearnerReady(_Message):
    """Learner to Avatar: where it goes on."""

    kind: Literal["ready"] = "ready"
    updates: int = Field(description="updates of the loop that the checkpoint holds, 0 for a new run")
    records: int = Field(description="live records taken since the run began")
    checkpoint: PathField | None
    offline_records: int
    live_records: int = Field(description="live records read back from the lake")
    notes: tuple[str, ...] = Field(description="what is not as it might be expected, in sentences")


class Saved(_Message):
    """Learner to Avatar: a checkpoint."""

    kind: Literal["saved"] = "saved"
    updates: int
    checkpoint: PathField


class WeightsMade(_Message):
    """Learner to Avatar: a version of weights is complete."""

    kind: Literal["weights"] = "weights"
    version: int
    updates: int
    path: Path


class EpisodeLearned(_Message):
    """Learner to Avatar: what an episode taught."""

    kind: Literal["learned"] = "learned"
    number: int
    valid: bool
    updates: int = Field(description="updates since the episode before")
    total_updates: int = Field(description="updates of the run")
    critic_loss: float | None = Field(description="mean over the updates; None: there were none")
    actor_loss: float | None
    mean_q: float | None
    reward: float | None = Field(description="mean reward of the records drawn, unit of the reward kind")
    saturated: float | None = Field(description="share of the actor's outputs beyond 0.99")
    checkpoint: PathField | None = Field(description="the newest")
    weights_version: int
    records: int = Field(description="records of this episode that arrived")
    refused: int = Field(description="records of this episode that were refused, for example as not finite")
    dropped: int = Field(default=0, description="records that the Avatar could not send, since the start")
    live_records: int
    offline_records: int
    learning_s: float = Field(description="time spent in updates since the episode before, s")


class Failed(_Message):
    """Learner to Avatar: it cannot go on; it ends after this."""

    kind: Literal["failed"] = "failed"
    cause: str
    checkpoint: PathField | None = Field(description="the last good one")


class Stopped(_Message):
    """Learner to Avatar: it has saved its state and ends."""

    kind: Literal["stopped"] = "stopped"
    cause: str
    updates: int
    checkpoint: PathField | None


ToLearner = Begin | Records | EpisodeEnd | Stop
ToAvatar = Waiting | LearnerReady | Saved | WeightsMade | EpisodeLearned | Failed | Stopped

_MODELS: dict[str, type[_Message]] = {
    model.model_fields["kind"].default: model
    for model in (
        *(Begin, Records, EpisodeEnd, Stop),
        *(Waiting, LearnerReady, Saved, WeightsMade, EpisodeLearned, Failed, Stopped),
    )
}


class Frame(NamedTuple):
    """One message and its arrays."""

    message: _Message
    blocks: dict[str, NDArray[np.float32]]

    def records(self) -> ReplayBatch:
        """The blocks as records.

        Raises:
            OnlineError: a field is missing.
        """
        missing = [name for name in ReplayBatch._fields if name not in self.blocks]
        if missing or not isinstance(self.message, Records):
            message = f"a {self.message!r} without the blocks {missing} holds no records; send ReplayBatch"
            raise OnlineError(message)
        return ReplayBatch(**{name: self.blocks[name] for name in ReplayBatch._fields})

    @property
    def memory(self) -> NDArray[np.float32] | None:
        """(records, memory_dim) before each record; None: the agent that drives has no memory."""
        return self.blocks.get(MEMORY)


def encode(message: _Message, blocks: Mapping[str, NDArray[np.float32]] | None = None) -> bytes:
    """A message as a frame.

    Raises:
        OnlineError: it is longer than a frame may be.
    """
    arrays = {name: np.ascontiguousarray(array, "<f4") for name, array in (blocks or {}).items()}
    header = message.model_dump(mode="json")
    header["blocks"] = [[name, list(array.shape)] for name, array in arrays.items()]
    text = json.dumps(header, separators=(",", ":")).encode()
    body = b"".join(array.tobytes() for array in arrays.values())
    _check_lengths(len(text), len(body))
    return _LENGTHS.pack(len(text), len(body)) + text + body


def encode_records(records: ReplayBatch, memory: NDArray[np.float32] | None = None) -> bytes:
    """Records as a frame, with what a recurrent agent remembered before each, (records, memory_dim)."""
    blocks = records._asdict()
    return encode(Records(), blocks if memory is None else {**blocks, MEMORY: memory})


class Decoder:
    """Makes frames of the bytes of a stream, whatever the pieces they come in."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take bytes and yield the frames that are complete.

        Raises:
            OnlineError: the bytes are no frames; the stream is of no use any more.
        """
        self._bytes += data
        while len(self._bytes) >= _LENGTHS.size:
            header, body = _LENGTHS.unpack_from(self._bytes)
            _check_lengths(header, body)
            end = _LENGTHS.size + header + body
            if len(self._bytes) < end:
                return
            text = bytes(self._bytes[_LENGTHS.size : _LENGTHS.size + header])
            blocks = bytes(self._bytes[_LENGTHS.size + header : end])
            del self._bytes[:end]
            yield _frame(text, blocks)


def _check_lengths(header: int, body: int) -> None:
    if header > HEADER_LIMIT or body > BLOCKS_LIMIT:
        message = (
            f"a frame with a header of {header} and blocks of {body} bytes; the limits are {HEADER_LIMIT} "
            f"and {BLOCKS_LIMIT}: send fewer records at a time"
        )
        raise OnlineError(message)


def _frame(text: bytes, body: bytes) -> Frame:
    try:
        header: dict[str, Any] = json.loads(text)
        blocks = _blocks(header.pop("blocks"), body)
        message = _MODELS[header["kind"]].model_validate(header)
    except (ValidationError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = (
            f"frame {text[:200]!r} is no message of a learner ({error}); both ends must be of one version"
        )
        raise OnlineError(reason) from error
    return Frame(message, blocks)


def _blocks(shapes: list[tuple[str, list[int]]], body: bytes) -> dict[str, NDArray[np.float32]]:
    values = np.frombuffer(body, "<f4")
    blocks, start = {}, 0
    for name, shape in shapes:
        size = int(np.prod(shape, dtype=np.int64))
        blocks[name] = values[start : start + size].reshape(shape)
        start += size
    if start != len(values):
        message = f"the shapes make {start} values, the blocks hold {len(values)}"
        raise ValueError(message)
    return blocks
