"""What the report shows of the data and the training, read from the lake."""

from collections import Counter
from typing import TYPE_CHECKING, Any

from tspace_core.agents.offline_run import Trained
from tspace_core.config import Vehicle
from tspace_core.evaluation.sections import (
    DataSection,
    EpisodesLine,
    LogLine,
    SignalLine,
    TrainingSection,
)
from tspace_core.storage.lake import Lake, RawLog, read_json

if TYPE_CHECKING:
    from tspace_core.agents.training import TrainSummary
    from tspace_core.evaluation.figures import Picture

PICTURED_RECORDS = 20_000


def training_section(trained: Trained) -> TrainingSection:
    """How the agent was trained."""
    from tspace_core.evaluation.figures import training_losses

    summary = trained.summary
    last = summary.series[-1]
    curves = {
        "critic": [point.critic_loss for point in summary.series],
        "actor": [point.actor_loss for point in summary.series],
    }
    return TrainingSection(
        agent=trained.agent,
        run=trained.run,
        updates=summary.updates,
        seconds=summary.wall_s if summary.resumed_from == 0 else None,
        replay=_learned_from(summary),
        checkpoint=f"{trained.run}/{trained.checkpoint.name}",
        tracking=summary.run_id or "",
        final_losses={
            "critic loss": last.critic_loss,
            "actor loss": last.actor_loss,
            "mean value": last.mean_q,
            "saturated outputs": last.saturated,
        },
        hyperparameters=trained.hyperparameters.model_dump(mode="json"),
        pictures=(training_losses([point.update for point in summary.series], curves),),
    )


def _learned_from(summary: "TrainSummary") -> str:
    version = summary.replay_version
    return summary.replay if version is None else f"{summary.replay}, version {version}"


def data_section(lake: Lake, vehicle: Vehicle) -> DataSection:
    """Logs, signals and episodes of a vehicle."""
    logs = [log for log in lake.raw_logs(vehicle.id) if lake.signals(log).is_file()]
    summaries = [_signals(lake, log) for log in logs]
    return DataSection(
        logs=tuple(_log_line(summary) for summary in summaries),
        signals=tuple(_signal_lines(summaries, vehicle)),
        episodes=_episodes_line(lake, vehicle),
        pictures=tuple(_pictures(lake, vehicle, logs)),
    )


def _signals(lake: Lake, log: RawLog) -> dict[str, Any]:
    from tspace_core.storage.frames_table import read_metadata

    return read_metadata(lake.signals(log))


def _log_line(summary: dict[str, Any]) -> LogLine:
    first, last = summary["t_first"], summary["t_last"]
    return LogLine(
        key=summary["key"],
        format=summary["format"],
        frames=summary["frames"],
        seconds=None if first is None else last - first,
        distance_km=summary["distance_m"] / 1000,
        energy_wh=summary["energy_wh"],
        dropped=summary["dropped"],
    )


def _signal_lines(summaries: list[dict[str, Any]], vehicle: Vehicle) -> list[SignalLine]:
    lines = []
    for name, source in vehicle.signals.items():
        found = [summary["signals"][name] for summary in summaries if summary["signals"][name]["count"]]
        count = sum(item["count"] for item in found)
        if not count:
            continue
        lines.append(
            SignalLine(
                name=name,
                unit=source.unit,
                count=count,
                minimum=min(item["min"] for item in found),
                maximum=max(item["max"] for item in found),
                mean=sum(item["mean"] * item["count"] for item in found) / count,
                substitute=source.substitute,
            )
        )
    return lines


def _episodes_line(lake: Lake, vehicle: Vehicle) -> EpisodesLine | None:
    contents = [read_json(manifest) for manifest in lake.episode_manifests(vehicle.id)]
    entries = [entry for content in contents for entry in content["episodes"]]
    if not entries:
        return None
    records = sum(entry["records"] for entry in entries)
    left_out: Counter[str] = Counter()
    for content in contents:
        summary = content["summary"]
        left_out.update({f"{reason} (rows)": count for reason, count in summary["unusable_rows"].items()})
        left_out.update({f"{reason} (records)": count for reason, count in summary["lost_records"].items()})
        left_out.update({"runs too short (rows)": summary["short_rows"]})
        left_out.update({"fill no whole step (rows)": summary["left_rows"]})
    return EpisodesLine(
        episodes=len(entries),
        records=records,
        energy_wh=sum(entry["meta"]["energy_wh"] for entry in entries),
        distance_km=sum(entry["meta"]["distance_m"] for entry in entries) / 1000,
        reward_kind=entries[0]["meta"]["reward_kind"],
        reward_mean=sum(entry["reward_sum"] for entry in entries) / records,
        left_out={reason: count for reason, count in left_out.items() if count},
    )


def _pictures(lake: Lake, vehicle: Vehicle, logs: list[RawLog]) -> "list[Picture]":
    from tspace_core.evaluation.figures import action_heat_map, episode_histograms, signals_overview
    from tspace_core.storage import episodes_table, signals_table

    pictures = []
    if logs:
        frame = signals_table.read(lake.signals(logs[0]))
        if len(frame):
            pictures.append(signals_overview(frame, title=logs[0].key))
    stored, records = [], 0
    for path in lake.episodes(vehicle_id=vehicle.id):
        if records > PICTURED_RECORDS:
            break
        stored.append(episodes_table.read(path))
        records += len(stored[-1])
    if stored:
        per_km = [
            item.meta.energy_wh / (item.meta.distance_m / 1000) for item in stored if item.meta.distance_m > 0
        ]
        pictures.append(
            episode_histograms(per_km, [reward for item in stored for reward in item.rewards.tolist()])
        )
        actions = [row for item in stored for row in item.actions.tolist()]
        rows = [row for item in stored for row in item.rows.tolist()]
        pictures.append(action_heat_map(vehicle, actions, rows))
    return pictures
