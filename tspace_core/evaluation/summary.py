"""What a comparison says about each candidate, as models that serialise to JSON."""

from collections.abc import Mapping

import polars as pl
from pydantic import BaseModel, ConfigDict

from tspace_core.evaluation.baselines import BEST_STATIC, DEFAULT, DESCRIPTIONS, POLICY
from tspace_core.evaluation.pairs import KEY
from tspace_core.evaluation.statistics import Interval, cluster_bootstrap_interval, student_t_interval
from tspace_core.evaluation.verdict import Verdict, judge, sentence, static_sentence
from tspace_core.twin.fleet_guard import GuardCount


class DriverSummary(BaseModel):
    """A candidate's paired differences for one driver; savings in % of energy per distance."""

    model_config = ConfigDict(frozen=True)

    driver: str
    pairs: int
    saving_percent: Interval | None
    counted_saving_percent: Interval | None
    trip_time_percent: Interval | None
    unequal_time_pairs: int


class AgainstStatic(BaseModel):
    """A candidate beside the best static map.

    ``share`` is the quotient of the mean counted savings, None where the static map saves none;
    ``difference_percent`` the counted saving less the static map's, paired by driver and seed, in % of the
    default map's energy.
    """

    model_config = ConfigDict(frozen=True)

    share: float | None
    difference_percent: Interval | None
    sentence: str


class CandidateSummary(BaseModel):
    """A candidate over all drivers and seeds.

    Means are over the drives that finished. Differences are paired with the default map's drives and None for
    the default map itself; ``saving_over_drivers_percent`` is the bootstrap by driver, the others Student t.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    description: str
    verdict: Verdict
    sentence: str
    drives: int
    finished: int
    pairs: int
    energy_wh: float | None
    distance_km: float | None
    energy_wh_per_km: float | None
    trip_time_s: float | None
    speed_rmse_kmh: float | None
    mean_acceleration_mps2: float | None
    mean_acceleration_rate_mps3: float | None
    flashes: int
    saving_percent: Interval | None = None
    counted_saving_percent: Interval | None = None
    saving_over_drivers_percent: Interval | None = None
    trip_time_percent: Interval | None = None
    speed_rmse_change_kmh: Interval | None = None
    mean_acceleration_rate_change_mps3: Interval | None = None
    unequal_time_pairs: int = 0
    per_driver: tuple[DriverSummary, ...] = ()
    problems: tuple[str, ...] = ()
    guard: GuardCount | None = None
    against_static: AgainstStatic | None = None


class ComparisonSummary(BaseModel):
    """A whole comparison: who drove what, and the verdicts."""

    model_config = ConfigDict(frozen=True)

    vehicle_id: str
    cycle: str
    drivers: tuple[str, ...]
    seeds: tuple[int, ...]
    candidates: tuple[CandidateSummary, ...]
    software_version: str
    guarded: bool = False
    """Whether a guard stood in front of all that was driven, as on the road."""

    def candidate(self, name: str) -> CandidateSummary:
        """The candidate of that name.

        Raises:
            KeyError: lists the names there are.
        """
        for candidate in self.candidates:
            if candidate.name == name:
                return candidate
        message = f"no candidate {name!r}; there are {[candidate.name for candidate in self.candidates]}"
        raise KeyError(message)

    @property
    def learned(self) -> tuple[CandidateSummary, ...]:
        """Candidates that are no baselines."""
        known = DESCRIPTIONS.keys() - {POLICY}
        return tuple(candidate for candidate in self.candidates if candidate.name not in known)

    @property
    def subject(self) -> CandidateSummary:
        """The candidate that the report is about.

        The trained policy; of several agents the one with the greatest mean counted saving; else the last.
        """
        learned = self.learned
        if not learned or POLICY in (candidate.name for candidate in learned):
            return self.candidate(POLICY) if learned else self.candidates[-1]
        return max(learned, key=_counted_mean)

    @property
    def ranking(self) -> tuple[str, ...]:
        """Names of the learned candidates, the one with the greatest mean counted saving first."""
        return tuple(item.name for item in sorted(self.learned, key=_counted_mean, reverse=True))

    @property
    def rivals(self) -> tuple[CandidateSummary, ...]:
        """Candidates that are shown to save, and on average at least as much as the subject."""
        own = self.subject.counted_saving_percent
        return tuple(
            candidate
            for candidate in self.candidates
            if candidate.name != self.subject.name
            and candidate.verdict is Verdict.SAVES
            and candidate.counted_saving_percent is not None
            and (own is None or candidate.counted_saving_percent.mean >= own.mean)
        )


def _counted_mean(candidate: CandidateSummary) -> float:
    counted = candidate.counted_saving_percent
    # An agent whose drives cannot be compared is no subject while another one's can.
    complete = candidate.verdict is not Verdict.INCOMPLETE
    return counted.mean if counted is not None and complete else float("-inf")


def summarise_candidates(
    drives: pl.DataFrame,
    pairs: pl.DataFrame,
    descriptions: Mapping[str, str] | None = None,
    guard: Mapping[str, GuardCount] | None = None,
) -> tuple[CandidateSummary, ...]:
    """Summarise every candidate, in the order of first appearance in ``drives``.

    Args:
        drives: columns of ``pairs.DRIVE_SCHEMA``.
        pairs: from ``pairs.paired_differences``.
        descriptions: what each candidate is; the baselines' are known.
        guard: what the guard said to the policies, by candidate.
    """
    known = {**DESCRIPTIONS, **(descriptions or {})}
    found = tuple(
        _summarise(
            name,
            known.get(name, ""),
            drives.filter(pl.col("candidate") == name),
            pairs.filter(pl.col("candidate") == name),
        )
        for name in drives["candidate"].unique(maintain_order=True)
    )
    static = next((candidate for candidate in found if candidate.name == BEST_STATIC), None)
    return tuple(
        candidate.model_copy(
            update={
                "guard": (guard or {}).get(candidate.name),
                "against_static": None if static is None else _against(candidate, static, pairs),
            }
        )
        for candidate in found
    )


def _against(
    candidate: CandidateSummary, static: CandidateSummary, pairs: pl.DataFrame
) -> AgainstStatic | None:
    """A candidate beside the best static map; None for the default map and the static map itself."""
    if candidate.name in (DEFAULT, static.name):
        return None
    own, other = (
        _comparable(pairs.filter(pl.col("candidate") == name)).select(*KEY, "counted_saving_percent")
        for name in (candidate.name, static.name)
    )
    both = own.join(other, on=KEY, how="inner", maintain_order="left", validate="1:1", suffix="_static")
    difference = student_t_interval(
        (both["counted_saving_percent"] - both["counted_saving_percent_static"]).to_numpy()
    )
    saved = both["counted_saving_percent_static"].mean()
    mean = both["counted_saving_percent"].mean()
    share = mean / saved if isinstance(mean, float) and isinstance(saved, float) and saved > 0 else None
    text = static_sentence(
        candidate.name,
        static.name,
        share=share,
        difference=difference,
        static_saves=static.verdict is Verdict.SAVES,
    )
    return AgainstStatic(share=share, difference_percent=difference, sentence=text)


def _summarise(name: str, description: str, drives: pl.DataFrame, pairs: pl.DataFrame) -> CandidateSummary:
    finished = drives.filter("finished")
    saving, counted = _interval(pairs, "saving_percent"), _interval(pairs, "counted_saving_percent")
    trip_time = _interval(pairs, "trip_time_percent")
    unequal = _unequal(pairs)
    if name == DEFAULT:
        verdict = Verdict.REFERENCE
    else:
        verdict = judge(
            saving=saving,
            counted=counted,
            trip_time=trip_time,
            expected_pairs=len(pairs),
            identical=_identical(pairs),
        )
    distance_m = _mean(finished, "distance_m")
    comparable = _comparable(pairs)
    return CandidateSummary(
        name=name,
        description=description,
        verdict=verdict,
        sentence=sentence(
            name,
            verdict,
            saving=saving,
            counted=counted,
            trip_time=trip_time,
            unequal_time_pairs=unequal,
            expected_pairs=len(pairs),
        ),
        drives=len(drives),
        finished=len(finished),
        pairs=len(comparable),
        energy_wh=_mean(finished, "energy_wh"),
        distance_km=None if distance_m is None else distance_m / 1000,
        energy_wh_per_km=_mean(finished, "energy_wh_per_km"),
        trip_time_s=_mean(finished, "trip_time_s"),
        speed_rmse_kmh=_mean(finished, "speed_rmse_kmh"),
        mean_acceleration_mps2=_mean(finished, "mean_acceleration_mps2"),
        mean_acceleration_rate_mps3=_mean(finished, "mean_acceleration_rate_mps3"),
        flashes=int(drives["flashes"].sum()),
        saving_percent=saving,
        counted_saving_percent=counted,
        saving_over_drivers_percent=cluster_bootstrap_interval(
            comparable["saving_percent"].to_numpy(), comparable["driver"].to_list()
        ),
        trip_time_percent=trip_time,
        speed_rmse_change_kmh=_interval(pairs, "speed_rmse_kmh_change"),
        mean_acceleration_rate_change_mps3=_interval(pairs, "mean_acceleration_rate_mps3_change"),
        unequal_time_pairs=unequal,
        per_driver=tuple(
            _summarise_driver(driver, pairs.filter(pl.col("driver") == driver))
            for driver in pairs["driver"].unique(maintain_order=True)
        ),
        problems=tuple(
            f"{name}, driver {row['driver']}, seed {row['seed']}: {row['problem']}"
            for row in pairs.filter(pl.col("problem").is_not_null()).select(*KEY, "problem").to_dicts()
        ),
    )


def _summarise_driver(driver: str, pairs: pl.DataFrame) -> DriverSummary:
    return DriverSummary(
        driver=driver,
        pairs=len(_comparable(pairs)),
        saving_percent=_interval(pairs, "saving_percent"),
        counted_saving_percent=_interval(pairs, "counted_saving_percent"),
        trip_time_percent=_interval(pairs, "trip_time_percent"),
        unequal_time_pairs=_unequal(pairs),
    )


def _comparable(pairs: pl.DataFrame) -> pl.DataFrame:
    return pairs.filter(pl.col("problem").is_null())


def _unequal(pairs: pl.DataFrame) -> int:
    return len(_comparable(pairs).filter(~pl.col("equal_time")))


def _identical(pairs: pl.DataFrame) -> bool:
    changes = [
        name
        for name in pairs.columns
        if name.endswith(("_percent", "_change")) and pairs[name].dtype.is_float()
    ]
    return all(bool((pairs[name] == 0).all()) for name in changes)


def _interval(pairs: pl.DataFrame, column: str) -> Interval | None:
    return student_t_interval(_comparable(pairs)[column].to_numpy())


def _mean(frame: pl.DataFrame, column: str) -> float | None:
    value = frame[column].mean()
    return float(value) if isinstance(value, int | float) else None
