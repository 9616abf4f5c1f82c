"""Episodes and raw windows as JSON text and back, bit for bit.

::

    {"format": "tspace.episode", "version": 1, "meta": {...}, "time_ns": [n + 1], "states": [[...] x n + 1],
     "actions": [[68] x n], "first_rows": [n], "rewards": [n], "flags": [n]}
    {"format": "tspace.windows", "version": 1, "signals": [...], "units": {...}, "rate_hz": 20.0,
     "window": W, "time_ns": [n], "samples": [[[signals] x W] x n]}

It is strict JSON. Integers of 64 bits are written whole: some readers (JavaScript) round beyond 2^53. A
float32 is written as the double of the same value, so that it is the same after any reader. What is not
finite is one of the strings "NaN", "Infinity", "-Infinity"; any NaN comes back as numpy's.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from tspace_core.errors import RecordError, SchemaVersionError
from tspace_core.records.episode import Episode
from tspace_core.records.meta import EpisodeMeta
from tspace_core.records.policy import ACTION_DIM
from tspace_core.records.raw_windows import RawWindows

EPISODE = "tspace.episode"
WINDOWS = "tspace.windows"
VERSION = 1
"""To be raised when the same content is written in another way."""

_WORDS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


def to_json(given: Episode | RawWindows) -> str:
    """An episode or raw windows as JSON text, without line breaks."""
    content = _episode(given) if isinstance(given, Episode) else _windows(given)
    return json.dumps(content, allow_nan=False, separators=(",", ":"))


def episode_from_json(text: str | bytes) -> Episode:
    """The episode of a text.

    Raises:
        SchemaVersionError: it was written in another version of the format.
        RecordError: it is damaged, is something else, or its numbers contradict the definition of an episode.
    """
    content = _content(text, EPISODE)
    try:
        meta = EpisodeMeta.model_validate_json(json.dumps(content["meta"], allow_nan=False))
        rewards = _floats(content, "rewards", (-1,))
        n, state_dim = len(rewards), meta.window * len(meta.signals)
        return Episode(
            states=_floats(content, "states", (n + 1, state_dim)),
            actions=_floats(content, "actions", (n, ACTION_DIM)),
            rows=_integers(content, "first_rows", np.int32),
            rewards=rewards,
            times=_integers(content, "time_ns", np.int64),
            flags=_integers(content, "flags", np.uint8),
            meta=meta,
        )
    except ValidationError as error:
        message = f"JSON of an episode: {error.error_count()} fields of its meta are wrong: write it again"
        raise RecordError(message) from error
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _damaged(EPISODE, error) from error


def windows_from_json(text: str | bytes) -> RawWindows:
    """The raw windows of a text.

    Raises:
        SchemaVersionError: it was written in another version of the format.
        RecordError: it is damaged or is something else.
    """
    content = _content(text, WINDOWS)
    try:
        signals = tuple(str(name) for name in content["signals"])
        starts = _integers(content, "time_ns", np.int64)
        return RawWindows(
            starts=starts,
            samples=_floats(content, "samples", (len(starts), int(content["window"]), len(signals))),
            signals=signals,
            units={str(name): str(unit) for name, unit in content["units"].items()},
            rate_hz=float(content["rate_hz"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise _damaged(WINDOWS, error) from error


def plain_meta(meta: EpisodeMeta) -> dict[str, Any]:
    """Meta information as types of JSON; what is not finite as the words above."""
    content: dict[str, Any] = json.loads(meta.model_dump_json())
    return content


def _episode(episode: Episode) -> dict[str, Any]:
    return {
        "format": EPISODE,
        "version": VERSION,
        "meta": plain_meta(episode.meta),
        "time_ns": episode.times.tolist(),
        "states": episode.states.tolist(),
        "actions": episode.actions.tolist(),
        "first_rows": episode.rows.tolist(),
        "rewards": episode.rewards.tolist(),
        "flags": episode.flags.tolist(),
    }


def _windows(windows: RawWindows) -> dict[str, Any]:
    samples = windows.samples
    listed = samples.tolist()
    for window, sample, signal in np.argwhere(~np.isfinite(samples)).tolist():
        listed[window][sample][signal] = _word(float(samples[window, sample, signal]))
    return {
        "format": WINDOWS,
        "version": VERSION,
        "signals": list(windows.signals),
        "units": dict(windows.units),
        "rate_hz": windows.rate_hz,
        "window": windows.window,
        "time_ns": windows.starts.tolist(),
        "samples": listed,
    }


def _word(value: float) -> str:
    if np.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _content(text: str | bytes, wanted: str) -> dict[str, Any]:
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _damaged(wanted, error) from error
    if not isinstance(content, dict) or content.get("format") != wanted:
        seen = content.get("format") if isinstance(content, dict) else type(content).__name__
        message = f"JSON of format {seen!r}, expected an object of format {wanted!r}: give the right text"
        raise RecordError(message)
    version = content.get("version")
    if version != VERSION or isinstance(version, bool):
        message = f"JSON of {wanted} has version {version!r}, this tspace reads {VERSION}: " + (
            "read it with the newer tspace that wrote it"
            if isinstance(version, int) and version > VERSION
            else "write it again from the store that it was exported from"
        )
        raise SchemaVersionError(message)
    return content


def _floats(content: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Numbers as an array of a shape, -1 in it for any length."""
    values = content[name]
    try:
        array = np.array(values)
        if array.size and array.dtype.kind not in "fiu":
            array = np.array(_numbers(values), np.float64)
    except ValueError as error:
        message = f"{name} is not of one shape ({error})"
        raise ValueError(message) from error
    fits = len(array.shape) == len(shape) and all(
        have == want or want == -1 for have, want in zip(array.shape, shape, strict=True)
    )
    if not fits and not (array.size == 0 and 0 in shape):
        message = f"{name} has shape {array.shape}, expected {shape}"
        raise ValueError(message)
    with np.errstate(over="ignore"):
        found = array.astype(np.float32)
    changed = (found != array) & ~np.isnan(array.astype(np.float64))
    if changed.any():
        message = f"{name} holds {int(changed.sum())} numbers that no float32 is equal to"
        raise ValueError(message)
    return found.reshape(shape)


def _numbers(values: Any) -> Any:
    """Words become what they stand for."""
    if isinstance(values, list):
        return [_numbers(value) for value in values]
    if isinstance(values, str):
        return _WORDS[values]
    if isinstance(values, bool) or not isinstance(values, int | float):
        message = f"{values!r} is no number"
        raise TypeError(message)
    return values


def _integers(content: Mapping[str, Any], name: str, dtype: type[np.integer[Any]]) -> NDArray[Any]:
    values = content[name]
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        message = f"{name} is no list of whole numbers"
        raise TypeError(message)
    return np.array(values, dtype)


def _refuse_constant(word: str) -> float:
    message = f"{word} is no JSON; write it as a string"
    raise ValueError(message)


def _damaged(wanted: str, error: Exception) -> RecordError:
    message = f"JSON of {wanted} cannot be read ({type(error).__name__}: {error}): write it again"
    return RecordError(message)
