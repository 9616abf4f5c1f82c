"""What carries out the automation conditions of the assets."""

import dagster as dg

automation = dg.AutomationConditionSensorDefinition(
    "automation",
    target=dg.AssetSelection.assets("episodes", "catalogue"),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
    description="Episodes follow their signals, the catalogue follows the lake.",
)
