"""The codes of the wire contract: each has its meaning, its error, and says whether a map may be changed."""

import pytest

from tspace_core import errors
from tspace_core.errors import ChannelError, LinkError, RemoteCanError
from tspace_core.link.remote_codes import CODES, flash_code, remote_error

MEANINGS = {
    1: "cannot connect to server (HTTP status not 200)",
    2: "AI mode shut down by the driver",
    1000: "network connection error",
    1001: "network unknown error",
    1002: "network timeout",
    -1: "tsp internal error",
    202: "tsp: no such API",
    206: "tsp: wrong parameter",
    301: "tsp: out of time",
    302: "tsp: command execution error",
    303: "tsp: car not registered",
    304: "tsp: car offline",
    310: "tsp internal exception",
    311: "tbox returned an error",
    2000: "uds version failed",
    2001: "a/b torque switch failed",
    2002: "not enough data in object storage",
    2003: "torque shape error",
    2004: "torque range error",
    2005: "unknown format",
    3000: "result is not a dictionary",
    3001: "result has no object storage link",
}
ERRORS = {
    errors.RemoteNetworkError: {1, 1000, 1001, 1002},
    errors.AiModeOffError: {2},
    errors.RemoteServiceError: {-1, 202, 206, 301, 302, 303, 304, 310},
    errors.RemoteVehicleError: {311, 2000, 2001},
    errors.RemoteDataError: {2002},
    errors.RemoteTorqueError: {2003, 2004},
    errors.RemoteFormatError: {2005, 3000, 3001},
}
UNCHANGED = {2, 202, 206, 303, 304, 1000, 2003, 2004}
LASTING = {202, 206, 303, 2000, 2003, 2004}


def test_the_table_is_that_of_the_wire_contract() -> None:
    assert {code: row.meaning for code, row in CODES.items()} == MEANINGS
    assert {code for codes in ERRORS.values() for code in codes} == set(MEANINGS)


@pytest.mark.parametrize("code", MEANINGS)
def test_each_code_has_its_error_and_says_what_to_do(code: int) -> None:
    error = remote_error(code, "seen: 7", vehicle="truck", call="set_torque")
    assert code in ERRORS[type(error)]
    assert error.code == code
    assert error.unchanged == (code in UNCHANGED)
    assert flash_code(error) == (2 if code in LASTING else 4)
    expected = f"truck set_torque: code {code}, {MEANINGS[code]}: seen: 7; {CODES[code].next_step}"
    assert str(error) == expected


def test_what_the_caller_knows_better_goes_before_the_table() -> None:
    assert not remote_error(304, "", unchanged=False).unchanged
    assert remote_error(1002, "", unchanged=True).unchanged
    assert str(remote_error(304, "", next_step="call home")) == "code 304, tsp: car offline; call home"


@pytest.mark.parametrize("code", [0, 3, 200, -2, 999_999_999])
def test_an_unknown_code_is_an_unknown_form_and_named(code: int) -> None:
    error = remote_error(code, "seen")
    assert type(error) is errors.RemoteFormatError
    assert error.code == 2005
    assert not error.unchanged
    assert f"code {code} is in no table; seen" in str(error)


@pytest.mark.parametrize("error", [ChannelError("gone"), RemoteCanError("?", 77, unchanged=False)])
def test_any_other_failure_of_a_flash_may_heal(error: LinkError) -> None:
    assert flash_code(error) == 4
