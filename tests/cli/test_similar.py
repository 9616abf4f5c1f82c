"""``tspace embed`` and ``tspace similar`` as people use them."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from tests.embeddings.drives import VEHICLE, put_episode, smooth_episode
from tspace_core.cli import app
from tspace_core.config import settings
from tspace_core.config.embeddings import EmbeddingParameters
from tspace_core.errors import TspaceError
from tspace_core.storage.lake import Lake

FIRST = f"{VEHICLE}/2026-01-05/log1.blf#0000"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A lake with embedded episodes; training takes a moment, so there is one for all tests."""
    folder = tmp_path_factory.mktemp("similar") / "lake"
    lake = Lake(folder)
    for number in range(1, 4):
        put_episode(lake, smooth_episode(number, 60, driver_id="tracker" if number < 3 else "habitual"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("tspace_core.embeddings.run.load_embeddings", lambda: EmbeddingParameters(updates=60))
        done = run("embed", "--vehicle", VEHICLE, "--data-dir", str(folder))
    assert "180 situations of 3 episodes, 180 new" in done.stdout
    yield folder
    settings.cache_clear()


def run(*words: str) -> Result:
    done = CliRunner().invoke(app, list(words))
    if isinstance(done.exception, Exception) and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def found(data: Path, *more: str, at: str = "60") -> dict[str, object]:
    done = run("similar", "--episode", FIRST, "--at", at, "--data-dir", str(data), "--json", *more)
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_people_see_the_moment_and_those_like_it(data: Path) -> None:
    done = run("similar", "--episode", FIRST, "--at", "60", "--count", "4", "--data-dir", str(data))
    lines = done.stdout.splitlines()
    assert lines[0].startswith("like")
    assert f"{FIRST} at 60.00 s, 2026-01-06 09:01:00 CET, tracker" in lines[0]  # the site's zone
    assert len(lines) == 2 + 4
    distances = [float(line.split()[0]) for line in lines[2:]]
    assert distances == sorted(distances)
    assert all("km/h" in line and "%" in line for line in [lines[0], *lines[2:]])


def test_programs_get_one_json_object(data: Path) -> None:
    answer = found(data, "--count", "7")
    query, neighbours = answer["query"], answer["neighbours"]
    assert isinstance(query, dict)
    assert isinstance(neighbours, list)
    assert (query["episode_id"], query["k"], query["at_s"]) == (FIRST, 20, 60.0)
    window = smooth_episode(1, 60).states[20].reshape(30, 3)
    assert query["speed_kmh"] == pytest.approx(float(window[:, 0].mean()), rel=1e-5)
    assert len(neighbours) == 7
    assert (FIRST, 20) not in {(item["episode_id"], item["k"]) for item in neighbours}
    far = np.mean([abs(item["speed_kmh"] - query["speed_kmh"]) for item in neighbours])
    assert far < 15


def test_a_moment_may_be_an_instant_with_or_without_a_zone(data: Path) -> None:
    wanted = found(data)["query"]
    assert found(data, at="2026-01-06T08:01:01+00:00")["query"] == wanted  # within the same record
    assert found(data, at="2026-01-06T09:01:00")["query"] == wanted  # the site's zone


def test_neighbours_can_be_narrowed(data: Path) -> None:
    others = found(data, "--other-episodes", "--count", "50")["neighbours"]
    assert isinstance(others, list)
    assert FIRST not in {item["episode_id"] for item in others}
    habitual = found(data, "--driver", "habitual", "--count", "50")["neighbours"]
    assert isinstance(habitual, list)
    assert {item["driver"] for item in habitual} == {"habitual"}
    nobody = run(
        "similar", "--episode", FIRST, "--at", "9", "--site", "public_roads", "--data-dir", str(data)
    )
    assert "no other situation fits" in nobody.stdout


def test_an_episode_without_vectors_yet_is_encoded_on_the_way(data: Path, tmp_path: Path) -> None:
    put_episode(Lake(data), smooth_episode(9, 12))
    answer = run(
        "similar", "--episode", f"{VEHICLE}/2026-01-05/log9.blf#0000", "--at", "3", "--count", "2",
        "--data-dir", str(data), "--json",
    )  # fmt: skip
    assert len(json.loads(answer.stdout)["neighbours"]) == 2


def test_an_episode_that_was_cut_anew_is_looked_for_as_it_is_now(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(data, folder)
    third = smooth_episode(3, 60)
    again = dataclasses.replace(smooth_episode(1, 60), states=third.states)
    put_episode(Lake(folder), again, "bbbbbbbb")
    nearest = found(folder, "--other-episodes", "--count", "1")["neighbours"]
    assert isinstance(nearest, list)
    assert (nearest[0]["episode_id"], nearest[0]["k"]) == (third.meta.episode_id, 20)
    assert nearest[0]["distance"] < 1e-5


@pytest.mark.parametrize(
    ("episode", "at", "says"),
    [
        (f"{VEHICLE}/2026-01-05/log7.blf#0000", "1", "no episode .*log7.*the latest: .*log1"),
        ("nothing", "1", "no episode 'nothing'.*none of nothing"),
        (FIRST, "180", r"--at 180 is not within .*from 0 to 180\.00 s, 2026-01-06T09:00:00.000\+01:00 to"),
        (FIRST, "-3", "not within"),
        (FIRST, "nan", "not within"),
        (FIRST, "2026-01-06T08:03:00Z", "not within"),
        (FIRST, "noon", "neither a number of seconds nor an instant"),
    ],
)
def test_a_wrong_moment_says_what_is_right(data: Path, episode: str, at: str, says: str) -> None:
    with pytest.raises(TspaceError, match=says):
        run("similar", "--episode", episode, f"--at={at}", "--data-dir", str(data))


def test_without_vectors_the_command_that_makes_them_is_named(tmp_path: Path) -> None:
    put_episode(Lake(tmp_path), smooth_episode(1, 12))
    with pytest.raises(TspaceError, match=f"tspace embed --vehicle {VEHICLE}"):
        run("similar", "--episode", FIRST, "--at", "1", "--data-dir", str(tmp_path))


def test_embedding_again_does_nothing_and_training_anew_does_all(data: Path) -> None:
    again = json.loads(run("embed", "--vehicle", VEHICLE, "--data-dir", str(data), "--json").stdout)
    assert again["new_rows"] in (0, 12)  # the episode that another test may have added
    assert again["removed"] == 0
