"""What the report shows besides the comparison: the data and the training behind the policy."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from tspace_core.evaluation.figures import Picture
from tspace_core.evaluation.fitted_q import OffPolicyEstimate
from tspace_core.evaluation.release_bar import Finding, passed


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class LogLine(_Section):
    """One raw log: what it held and what had to be left out, with the count of each reason."""

    key: str
    format: str
    frames: int
    seconds: float | None = None
    distance_km: float | None = None
    energy_wh: float | None = None
    dropped: Mapping[str, int] = {}


class SignalLine(_Section):
    """A decoded signal over all logs, before resampling."""

    name: str
    unit: str
    count: int
    minimum: float
    maximum: float
    mean: float
    substitute: str | None = None


class EpisodesLine(_Section):
    """The episodes that were learned from."""

    episodes: int
    records: int
    energy_wh: float | None = None
    distance_km: float | None = None
    reward_kind: str = ""
    reward_mean: float | None = None
    left_out: Mapping[str, int] = {}


class DataSection(_Section):
    """Logs, signals, episodes, and pictures of them."""

    logs: tuple[LogLine, ...] = ()
    signals: tuple[SignalLine, ...] = ()
    episodes: EpisodesLine | None = None
    pictures: tuple[Picture, ...] = ()


class TrainingSection(_Section):
    """How the policy was trained.

    ``final_losses`` and ``hyperparameters`` are shown as they stand, name beside value.
    """

    agent: str
    run: str
    updates: int
    seconds: float | None = None
    replay: str = ""
    checkpoint: str = ""
    tracking: str = ""
    final_losses: Mapping[str, float] = {}
    hyperparameters: Mapping[str, object] = {}
    pictures: tuple[Picture, ...] = ()


class SituationLine(_Section):
    """A recorded situation in which the agent changes the map much, and recorded ones like it."""

    number: int
    episode: str
    at_s: float
    change_nm: float
    neighbours: tuple[str, ...]


class SituationsSection(_Section):
    """Where the agent changes the map most, and when recorded drives were like that.

    ``note`` says why nothing can be shown.
    """

    encoder: str = ""
    rows: int = 0
    lines: tuple[SituationLine, ...] = ()
    pictures: tuple[Picture, ...] = ()
    note: str = ""


class OffPolicySection(_Section):
    """What recorded trips say about agents that did not drive them: an estimate, with why to doubt it.

    ``note`` says why nothing could be estimated.
    """

    estimates: Mapping[str, OffPolicyEstimate] = {}
    """By agent."""
    reward_kind: str = ""
    note: str = ""


class ReleaseLine(_Section):
    """Whether an agent clears the release bar, rule by rule."""

    agent: str
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether every rule holds."""
        return passed(self.findings)


class Provenance(_Section):
    """How the report was made, so that someone else can make it again."""

    command: str = ""
    settings: Mapping[str, object] = {}
