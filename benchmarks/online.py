"""The online loop: from a window to a proposal, flashes beside the bus' limit, windows missed in a drive.

::

    python benchmarks/online.py [--json] [--minutes 10] [--rounds 5] [--rate 60 --window 6]
    python benchmarks/online.py --only latency
    python benchmarks/online.py --only flash
    python benchmarks/online.py --json --quick

=========  =======================================================================================
flash      ``online_flash``: 272 bytes and 20 changed cells, with and without block mode, and pyxcp
latency    ``online_latency``: window complete -> proposal, the learner off, on, with new weights in turns
drive      ``online_run``: a drive with twin, bridge, run and learner: windows missed
=========  =======================================================================================

Everything is in real time: the drive takes ``--minutes``, latency 50 s a round, flash some 15 s a round. What
is going on is told on stderr. Other work on the machine shows in the tails; no hardware is needed.
"""

import argparse

from interleaved import Result, arguments, off_stdout, show

PARTS = ("flash", "latency", "drive")


def measure(options: argparse.Namespace) -> list[Result]:
    """What was asked for, part by part."""
    lines: list[Result] = []
    quick: bool = options.quick
    if "flash" in options.only:
        import online_flash
        from online_flash import Effort

        if quick:
            flashed = online_flash.measure(1, Effort(2, 2), [True])
        else:
            flashed = online_flash.measure(3, Effort(4, 25))
        lines += online_flash.results(flashed)
    if "latency" in options.only:
        import online_latency

        rounds, turns, leg_s = (2, 1, 2.0) if quick else (options.rounds, 5, 3.0)
        found = online_latency.measure(rounds, turns, leg_s, options.window, options.rate)
        lines += online_latency.results(found)
    if "drive" in options.only:
        import online_run

        lines += online_run.results(online_run.measure(0.12 if quick else options.minutes))
    return lines


def main() -> None:
    parser = arguments("The online loop: proposals, flashes, missed windows.")
    parser.set_defaults(rounds=5)
    parser.add_argument("--minutes", type=float, default=10.0, help="length of the drive")
    parser.add_argument("--window", type=int, default=6, help="samples in a window, for latency")
    parser.add_argument("--rate", type=float, default=60.0, help="samples a second, for latency")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure")
    parser.add_argument("--quick", action="store_true", help="a minute: whether it works, not how fast")
    options = parser.parse_args()
    with off_stdout():
        lines = measure(options)
    show(lines, as_json=options.json, title="the online loop, medians where nothing else is said")


if __name__ == "__main__":
    main()
