"""The report: one file that needs nothing else, says what the drives say, and escapes what it is given."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.evaluation.conftest import Drives
from tspace_core.config import Vehicle
from tspace_core.evaluation import figures
from tspace_core.evaluation.comparison import Comparison
from tspace_core.evaluation.fitted_q import RecordedEpisode, estimate_policy
from tspace_core.evaluation.release_bar import Finding
from tspace_core.evaluation.report import write_report
from tspace_core.evaluation.sections import (
    DataSection,
    EpisodesLine,
    LogLine,
    OffPolicySection,
    Provenance,
    ReleaseLine,
    SignalLine,
    TrainingSection,
)
from tspace_core.twin.fleet_guard import GuardCount

EVIL = "<script>alert('x')</script> & <b>bold</b>"


class Page(HTMLParser):
    """Collects tags, what they load, and the text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.text = ""
        self.feed(source)
        self.text = re.sub(r"[ \n\t]+", " ", self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            inside = (value or "").startswith(("#", "data:"))
            if name in ("src", "href", "xlink:href", "srcset", "action") and not inside:
                self.loads.append(str(value))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def data() -> DataSection:
    return DataSection(
        logs=(
            LogLine(
                key="truck/2026-01-05/a.blf",
                format="blf",
                frames=1_234_567,
                seconds=900.0,
                distance_km=12.3,
                energy_wh=9876.5,
                dropped={"error_frame": 17},
            ),
            LogLine(key=EVIL, format="asc", frames=1),
        ),
        signals=(
            SignalLine(
                name="thrust", unit="%", count=1000, minimum=0, maximum=88, mean=12.5, substitute=EVIL
            ),
        ),
        episodes=EpisodesLine(
            episodes=12, records=3456, reward_kind="energy", reward_mean=-18.5, left_out={"too_short": 2}
        ),
        pictures=(figures.episode_histograms([600, 700, 650], np.linspace(-30, 5, 100)),),
    )


@pytest.fixture
def training() -> TrainingSection:
    return TrainingSection(
        agent="ddpg",
        run=EVIL,
        updates=2000,
        seconds=21.5,
        checkpoint="ddpg/run/2000",
        final_losses={"critic": 0.123},
        hyperparameters={"gamma": 0.99, "actor_hidden": (256, 256)},
        pictures=(figures.training_losses([1, 2, 3], {"critic": [3.0, 2.0, 1.0]}),),
    )


def test_the_report_is_one_file_with_everything_in_it(
    vehicle: Vehicle, comparison: Comparison, data: DataSection, training: TrainingSection, tmp_path: Path
) -> None:
    path = write_report(
        tmp_path / "out" / "report.html",
        title="Truck on two hills",
        vehicle=vehicle,
        comparison=comparison,
        training=training,
        data=data,
        provenance=Provenance(command="make demo", settings={"training_seed": 7}),
    )
    assert [item.name for item in path.parent.iterdir()] == ["report.html"]
    source = path.read_text(encoding="utf-8")
    page = Page(source)
    assert page.loads == []
    assert not re.search(r"https?:|@import|url\((?!#)", source)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    # 4 of the comparison, 1 of the data, 1 of the training.
    assert page.tags.count("svg") == 6
    assert len(source) < 1_500_000
    for text in (
        "Truck on two hills",
        comparison.summary.subject.sentence,
        "1\u202f234\u202f567",
        "error frame 17",
        "too short 2",
        "actor hidden",
        "make demo",
        "training seed",
        "Glossary",
        "minus_budget",
        "habitual",
    ):
        assert text in page.text, text
    assert page.text.index(comparison.summary.subject.sentence) < page.text.index("Per driver")


def test_text_from_outside_is_escaped(
    vehicle: Vehicle, comparison: Comparison, data: DataSection, training: TrainingSection, tmp_path: Path
) -> None:
    path = write_report(
        tmp_path / "report.html",
        title=EVIL,
        vehicle=vehicle.model_copy(update={"description": EVIL}),
        comparison=comparison,
        training=training,
        data=data,
        provenance=Provenance(command=EVIL, settings={EVIL: EVIL}),
    )
    source = path.read_text(encoding="utf-8")
    assert "<script" not in source
    assert "<b>" not in source
    # Title twice, description, log, substitute, run, command, setting's name and value.
    assert source.count("&lt;script&gt;") == 9


def test_the_report_needs_neither_data_nor_training(
    vehicle: Vehicle, comparison: Comparison, tmp_path: Path
) -> None:
    path = write_report(tmp_path / "report.html", title="Bare", vehicle=vehicle, comparison=comparison)
    page = Page(path.read_text(encoding="utf-8"))
    assert "Hyperparameters" not in page.text
    assert page.tags.count("svg") == 4


def test_what_could_not_be_compared_is_in_the_report(
    vehicle: Vehicle, drives_of: Drives, tmp_path: Path
) -> None:
    drives = drives_of("policy", lambda driver, seed: 1.0 + seed)
    late = (pl.col("driver") == "driver_2") & (pl.col("seed") == 4)
    drives = drives.with_columns(
        (pl.col("finished") & ~late).alias("finished"),
    )
    comparison = Comparison.of_drives(
        pl.concat([drives_of("default"), drives]), vehicle_id=vehicle.id, cycle="made"
    )
    path = write_report(tmp_path / "report.html", title="Late", vehicle=vehicle, comparison=comparison)
    text = Page(path.read_text(encoding="utf-8")).text
    assert "cannot be judged: 1 of 15 drives" in text
    assert "policy, driver driver_2, seed 4: did not finish" in text


def test_drives_that_all_failed_still_make_a_report(
    vehicle: Vehicle, drives_of: Drives, tmp_path: Path
) -> None:
    drives = pl.concat([drives_of("default"), drives_of("policy", finished=False)])
    comparison = Comparison.of_drives(drives, vehicle_id=vehicle.id, cycle="made")
    path = write_report(tmp_path / "report.html", title="Failed", vehicle=vehicle, comparison=comparison)
    assert "none of its 15 drives can be compared" in Page(path.read_text(encoding="utf-8")).text


def test_a_guarded_comparison_says_what_the_guard_did_and_who_clears_the_bar(
    vehicle: Vehicle, drives_of: Drives, tmp_path: Path
) -> None:
    drives = [
        drives_of("default"),
        drives_of("best_static", lambda driver, seed: 2.0 + 0.1 * seed),
        drives_of("ddpg", lambda driver, seed: 1.0 + 0.1 * seed),
        drives_of("idql", lambda driver, seed: 0.5 + 0.1 * seed),
    ]
    said = GuardCount(
        proposals=1234, violations={"contradiction": 2}, clipped={"budget": 34}, cells=68 * 1234
    )
    comparison = Comparison.of_drives(
        pl.concat(drives), vehicle_id=vehicle.id, cycle="made", guard={"ddpg": said, "idql": GuardCount()}
    )
    static = comparison.summary.subject.against_static
    assert comparison.summary.subject.name == "ddpg"
    assert static is not None and static.share == pytest.approx(1.2 / 2.2)
    assert static.sentence == (
        "ddpg does not beat the best static map: -1.00 % of energy [-1.00, -1.00] against best_static, "
        "55 % of its saving."
    )
    below = Finding(
        rule="guard_violations", value=2, limit=0, unit="", passed=False, sentence="impossible proposals: 2"
    )
    estimate = estimate_policy(
        [
            RecordedEpisode(
                np.eye(4, dtype=np.float32),
                np.eye(3, dtype=np.float32),
                np.ones(3, np.float32),
                terminal=True,
            )
        ],
        lambda states: np.zeros((len(states), 3), np.float32),
    )
    path = write_report(
        tmp_path / "report.html",
        title="Guarded",
        vehicle=vehicle,
        comparison=comparison,
        off_policy=OffPolicySection(estimates={"ddpg": estimate}, reward_kind="energy_shaped", note=EVIL),
        releases=[
            ReleaseLine(agent="ddpg", findings=(below,)),
            ReleaseLine(agent="idql", findings=()),
        ],
    )
    source = path.read_text(encoding="utf-8")
    text = Page(source).text
    assert "<script" not in source
    for words in (
        static.sentence,
        "A guard stood in every vehicle",
        "contradiction 2",
        "ddpg: is below the bar and is not released",
        "idql: clears the bar",
        "\u2717 impossible proposals: 2",
        "no proof of a saving; nothing is released by it",
        estimate.caveats[0],
        "reward energy shaped",
    ):
        assert words in text, words
    bare = write_report(tmp_path / "bare.html", title="Bare", vehicle=vehicle, comparison=comparison)
    assert "no proof of a saving; nothing" not in bare.read_text(encoding="utf-8")
