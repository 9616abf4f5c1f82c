"""Figures of logs, episodes, training and comparisons; each returns a ``Picture`` (SVG and PNG)."""

from tspace_core.evaluation.figures.candidates import energy_saving, speed_traces, trip_time
from tspace_core.evaluation.figures.data import episode_histograms, signals_overview, training_losses
from tspace_core.evaluation.figures.maps import action_heat_map, mean_action, torque_map_change
from tspace_core.evaluation.figures.style import Picture

__all__ = [
    "Picture",
    "action_heat_map",
    "energy_saving",
    "episode_histograms",
    "mean_action",
    "signals_overview",
    "speed_traces",
    "torque_map_change",
    "training_losses",
    "trip_time",
]
