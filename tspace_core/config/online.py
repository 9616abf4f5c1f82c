"""The online run: what ends it, how it learns."""

from typing import Literal

from pydantic import Field, field_validator

from tspace_core.config.base import ConfigModel
from tspace_core.config.hyperparameters import HYPERPARAMETERS


class WatchdogLimits(ConfigModel):
    """How many failures within which time end a run; the field's figures."""

    capture_failures: int = Field(default=30, ge=1, description="refused datagrams or windows")
    flash_failures: int = Field(default=30, ge=1, description="flashes that were not applied")
    within_s: float = Field(default=600.0, gt=0, description="failures older than this are forgotten, s")


class OnlineConfig(ConfigModel):
    """One vehicle's online runs."""

    agent: str | None = Field(
        default=None,
        description="which agent drives and learns, for example rdpg: releases and checkpoints of others are "
        "left out then; None: that of the release, and ddpg where nothing is released",
    )
    countdown_s: float = Field(
        default=3.0,
        ge=0,
        description="capture goes on this long after end_valid, so that the last reward is whole, s",
    )
    watchdog: WatchdogLimits = WatchdogLimits()
    learning: Literal["continuous", "episode_end"] = Field(
        default="continuous", description="learn while driving, or updates_per_episode at each episode's end"
    )
    weights: Literal["step", "episode"] = Field(
        default="episode", description="border at which the driving agent takes new weights over"
    )
    live_share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of a batch from live records, once there are any; IDQL's hyperparameters say it "
        "themselves (offline_share)",
    )
    updates_per_record: float = Field(
        default=1.0, ge=0, le=100, description="updates for each live record, where learning is continuous"
    )
    live_capacity: int = Field(default=100_000, ge=1, description="live records kept for learning")
    window_gap_s: float | None = Field(
        default=None,
        ge=0,
        description="longest time without a sample between two windows of a step; None: a quarter of one, s",
    )
    late_flash_s: float | None = Field(
        default=None, gt=0, description="a flash that took longer is no action; None: one window, s"
    )
    silence_s: float = Field(
        default=2.0, gt=0, description="no datagram this long while capturing is a failure, s"
    )

    @field_validator("agent")
    @classmethod
    def _known(cls, agent: str | None) -> str | None:
        if agent is not None and agent not in HYPERPARAMETERS:
            message = f"there is no agent {agent!r}; known are {', '.join(HYPERPARAMETERS)}"
            raise ValueError(message)
        return agent
