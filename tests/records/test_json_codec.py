"""Episodes and raw windows as JSON come back bit for bit; what is not what it says is refused."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from tests.records.made import assert_same, bits, episodes, made_episode, raw_windows
from tspace_core.errors import RecordError, SchemaVersionError
from tspace_core.records.episode import Episode
from tspace_core.records.json_codec import VERSION, episode_from_json, to_json, windows_from_json
from tspace_core.records.raw_windows import RawWindows, windows_of


def no_constant(word: str) -> float:
    pytest.fail(f"{word} is no JSON")


@settings(derandomize=True, max_examples=60)
@given(episodes())
def test_an_episode_comes_back_bit_for_bit_by_strict_json(episode: Episode) -> None:
    text = to_json(episode)
    again = json.dumps(json.loads(text, parse_constant=no_constant))  # any other program may have read it
    for form in (text, text.encode(), again):
        assert_same(episode_from_json(form), episode)


@settings(derandomize=True, max_examples=60)
@given(raw_windows())
def test_raw_windows_come_back_bit_for_bit_with_their_holes(windows: RawWindows) -> None:
    text = to_json(windows)
    json.loads(text, parse_constant=no_constant)
    found = windows_from_json(text)
    assert bits(found.samples) == bits(windows.samples)
    assert found.samples.shape == windows.samples.shape
    assert found.starts.tobytes() == windows.starts.tobytes()
    assert (found.signals, found.units, found.rate_hz) == (windows.signals, windows.units, windows.rate_hz)


def test_what_is_not_finite_is_a_word() -> None:
    samples = np.array([[[np.nan], [np.inf], [-np.inf], [0.5]]], np.float32)
    text = to_json(RawWindows(np.array([7]), samples, ("soc",), {"soc": "%"}, 20.0))
    assert json.loads(text)["samples"] == [[["NaN"], ["Infinity"], ["-Infinity"], [0.5]]]


def changed(content: str, **fields: Any) -> str:
    return json.dumps(json.loads(content) | fields)


@pytest.mark.parametrize(
    ("version", "words"),
    [
        (VERSION + 1, "newer tspace"),
        (VERSION - 1, "export"),
        ("1", "export"),
        (None, "export"),
        (True, "export"),
    ],
)
def test_another_version_is_refused_with_what_to_do(version: object, words: str) -> None:
    for read, given_text in (
        (episode_from_json, to_json(made_episode(1, 2))),
        (windows_from_json, to_json(windows_of(made_episode(1, 2)))),
    ):
        with pytest.raises(SchemaVersionError, match=f"this tspace reads {VERSION}.*{words}"):
            read(changed(given_text, version=version))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rewards": [1.0, float("nan")]}, "NaN is no JSON"),
        ({"rewards": [1.0, "NaN"]}, "not finite"),
        ({"rewards": [1.0, "nan"]}, "KeyError"),
        ({"rewards": [1.0, None]}, "None is no number"),
        ({"rewards": [1.0, 0.1]}, "no float32 is equal"),
        ({"rewards": [1.0, 1e39]}, "no float32 is equal"),
        ({"rewards": [1.0]}, "states"),
        ({"actions": [[0.0] * 68, [0.0] * 67]}, "actions"),
        ({"first_rows": [0, 2**31]}, "Overflow"),
        ({"first_rows": [0, 1.0]}, "first_rows is no list of whole numbers"),
        ({"flags": [0, 256]}, "Overflow"),
        ({"flags": "00"}, "flags is no list"),
        ({"time_ns": [3, 2, 1]}, "do not ascend"),
        ({"meta": {}}, "fields of its meta are wrong"),
        ({"format": "tspace.windows"}, "expected an object of format 'tspace.episode'"),
    ],
)
def test_damaged_text_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(RecordError, match=words):
        episode_from_json(changed(to_json(made_episode(1, 2)), **change))


@pytest.mark.parametrize("text", ["", "{", "[]", "1", '"x"', b"\xff\xfe{", "[" * 100_000])
def test_foreign_text_is_refused(text: str | bytes) -> None:
    for read in (episode_from_json, windows_from_json):
        with pytest.raises(RecordError, match=r"write it again|give the right text"):
            read(text)


@pytest.mark.parametrize(
    "change",
    [
        {"samples": [[[1.0]]]},
        {"samples": None},
        {"rate_hz": 0},
        {"signals": ["a", "a", "a"]},
        {"units": []},
        {"window": 0},
    ],
)
def test_damaged_windows_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(RecordError):
        windows_from_json(changed(to_json(windows_of(made_episode(1, 2))), **change))
