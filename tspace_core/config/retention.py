"""How long what is at rest is kept: the model of ``conf/retention.yaml``.

Signals, episodes, journals, audit logs and episodes that wait for their lake are always kept: there is no
rule for them, and a file that gives one is refused.
"""

from pydantic import ByteSize, Field, model_validator

from tspace_core.config.base import ConfigModel, parse, read_yaml
from tspace_core.config.settings import settings


class Rule(ConfigModel):
    """What of an area stays; without any field, everything.

    Something goes when it has not changed for ``days`` and is none of the ``newest``; with ``newest`` alone,
    whatever its age; and, the oldest first, while the area holds more than ``most``. What is in use stays.
    """

    days: float | None = Field(default=None, ge=0, description="since the last change")
    newest: int | None = Field(default=None, ge=1, description="so many of each name stay in any case")
    most: ByteSize | None = Field(default=None, ge=0, description="bytes of the whole area, e.g. 200 GiB")

    @property
    def keeps_all(self) -> bool:
        """Whether nothing goes by this rule."""
        return self.days is None and self.newest is None and self.most is None


class VersionRule(Rule):
    """A rule for versions: the newest one always stays."""

    newest: int | None = Field(default=3, ge=1, description="so many versions of each name stay")

    @model_validator(mode="after")
    def _newest_stays(self) -> "VersionRule":
        if self.newest is None:
            message = "newest: give at least 1, the newest version is what readers open"
            raise ValueError(message)
        return self


class RawRule(Rule):
    """A rule for raw logs, from which everything else is made."""

    days: float | None = Field(default=None, ge=1, description="since the log was stored")

    @model_validator(mode="after")
    def _only_by_age(self) -> "RawRule":
        if self.days is None or self.newest is not None or self.most is not None:
            message = "raw logs go by age alone, give `raw: {days: ...}`; what goes cannot be had again"
            raise ValueError(message)
        return self


class Retention(ConfigModel):
    """Rules by area; an area that is not named is kept."""

    quarantine: Rule | None = None
    replay: VersionRule | None = None
    checkpoints: VersionRule | None = None
    frames: Rule | None = None
    policy_actions: Rule | None = None
    embeddings: Rule | None = None
    metrics: Rule | None = None
    reports: Rule | None = None
    caches: Rule | None = None
    raw: RawRule | None = None


AREAS = tuple(Retention.model_fields)


def load_retention() -> Retention:
    """The rules of this installation, ``<conf_dir>/retention.yaml``.

    Raises:
        ConfigError: names the file, the field and the value.
    """
    path = settings().conf_dir / "retention.yaml"
    return parse(Retention, read_yaml(path), path)
