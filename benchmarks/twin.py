"""How long a 15-minute drive takes to simulate, for one vehicle and for many at once.

::

    python benchmarks/twin.py [--json] [--rounds 5]

UDDS by place with the tracker, steps of 10 ms. FASTSim, which the twin's energy is held against, steps
once a second and follows a trace instead of driving it, so no ratio is printed.
"""

import statistics

from interleaved import Result, arguments, seconds_in_turns, show

from tspace_core.config import load_vehicle
from tspace_core.twin.fleet import Fleet

SECONDS = 900.0
COUNTS = (1, 16, 64)


def main() -> None:
    given = arguments("Simulated drives of 15 minutes.")
    given.set_defaults(rounds=5)
    options = given.parse_args()
    truck = load_vehicle("twin_truck")

    def drive(count: int) -> None:
        Fleet(truck, "udds", ["tracker"] * count, range(count)).advance(SECONDS)

    subjects = {str(count): (lambda count=count: drive(count)) for count in COUNTS}
    found = seconds_in_turns(subjects, rounds=options.rounds, calls=1)
    results = [
        Result(
            f"15-minute drive, {count} at once, a vehicle",
            "tspace",
            statistics.median(found[str(count)]) / count,
            "s",
            "lower",
        )
        for count in COUNTS
    ]
    show(results, as_json=options.json, title="Simulating a drive")


if __name__ == "__main__":
    main()
