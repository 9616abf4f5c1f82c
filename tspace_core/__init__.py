"""tspace: from raw CAN data of battery-electric trucks to trained pedal-map agents."""

__version__ = "0.1.0"
