"""A generated route for trucks: urban, rural and motorway parts with stops and grades.

From the seed, with u(a, b) a uniform number:

- Parts in order urban, rural, motorway, rural, urban. Each is a run of sections with a target speed and a
  length; urban 6 sections of u(250, 700) m at u(30, 50) km/h, a stop of u(5, 35) s after every section with
  probability 0.75; rural 3 sections of u(900, 1800) m at u(55, 75) km/h, a stop of u(5, 25) s with
  probability 0.3; motorway 1 section of u(4000, 5500) m at u(80, 85) km/h without a stop.
- Between target speeds the reference accelerates at 0.45 m/s2 above 30 km/h and 0.8 m/s2 below, and brakes at
  0.8 m/s2. Speeds never exceed 85 km/h. The route begins with 5 s of standing and ends at a stop.
- Height is a sum of five sine waves along the distance s, ``h(s) = sum A_k sin(2 pi s / L_k + phi_k)`` with
  L_k from 400 m to 6 km, grade amplitudes u(0.1, 0.9) % and random phases; the grade is its slope, clipped to
  +-4 %.
"""

import numpy as np

from tspace_core.twin.arrays import Array
from tspace_core.twin.route import SPACING_M, Route, make_route

MAX_SPEED_KMH = 85.0
PERIOD_S = 0.5
BRAKING = 0.8
SLOW, FAST = 0.8, 0.45
WAVE_LENGTHS_M = (400.0, 900.0, 1700.0, 3300.0, 6000.0)
PARTS = (
    # sections, length m, speed km/h, probability of a stop, dwell s
    (6, (250.0, 700.0), (30.0, 50.0), 0.75, (5.0, 35.0)),
    (3, (900.0, 1800.0), (55.0, 75.0), 0.3, (5.0, 25.0)),
    (1, (4000.0, 5500.0), (80.0, MAX_SPEED_KMH), 0.0, (0.0, 0.0)),
    (3, (900.0, 1800.0), (55.0, 75.0), 0.3, (5.0, 25.0)),
    (6, (250.0, 700.0), (30.0, 50.0), 0.75, (5.0, 35.0)),
)


def generate_truck_route(seed: int) -> Route:
    """The truck route of that seed (formula in the module's text)."""
    generator = np.random.default_rng([seed, 0x7275636B])
    limits: list[Array] = []
    stops: dict[int, float] = {0: 5.0}
    for sections, lengths, speeds, probability, dwells in PARTS:
        for _ in range(sections):
            count = int(generator.uniform(*lengths) / SPACING_M)
            limits.append(np.full(count, generator.uniform(*speeds) / 3.6))
            dwell = generator.uniform(*dwells)
            if generator.random() < probability:
                stops[sum(map(len, limits))] = dwell
    limit = np.concatenate([*limits, [0.0]])
    stops[len(limit) - 1] = 3.0
    profile = _reachable(limit, stops)
    time, speed = _by_time(profile, stops)
    grade = _grade(generator, len(profile) + 1)
    return make_route("truck_route", time, speed, grade)


def _reachable(limit: Array, stops: dict[int, float]) -> Array:
    """Squared speed on the grid that keeps to the limits, the stops, and the accelerations."""
    squared = limit**2
    squared[list(stops)] = 0.0
    for i in range(1, len(squared)):
        rate = SLOW if squared[i - 1] < (30.0 / 3.6) ** 2 else FAST
        squared[i] = min(squared[i], squared[i - 1] + 2.0 * rate * SPACING_M)
    for i in range(len(squared) - 2, -1, -1):
        squared[i] = min(squared[i], squared[i + 1] + 2.0 * BRAKING * SPACING_M)
    return squared


def _by_time(squared: Array, stops: dict[int, float]) -> tuple[Array, Array]:
    """The same profile over time, sampled every PERIOD_S, standing for the dwell times at the stops."""
    speed = np.sqrt(squared)
    arrival, reached = [0.0], [0.0]
    now = 0.0
    for i in range(len(speed)):
        if i:
            now += 2.0 * SPACING_M / (speed[i] + speed[i - 1])
            arrival.append(now)
            reached.append(float(speed[i]))
        if i in stops:
            now += stops[i]
            arrival.append(now)
            reached.append(0.0)
    time = np.arange(0.0, now + PERIOD_S, PERIOD_S)
    return time, np.interp(time, arrival, reached, right=0.0)


def _grade(generator: np.random.Generator, count: int) -> Array:
    place = np.arange(count) * SPACING_M
    grade = np.zeros(count)
    for length in WAVE_LENGTHS_M:
        amplitude = generator.uniform(0.1, 0.9) / 100.0
        grade += amplitude * np.cos(2.0 * np.pi * place / length + generator.uniform(0.0, 2.0 * np.pi))
    return np.clip(grade, -0.04, 0.04)
