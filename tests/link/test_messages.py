"""What the channel's messages accept, and what they say of the rest."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tspace_core.errors import ChannelError
from tspace_core.link.float_buffer import to_hex
from tspace_core.link.messages import (
    Answer,
    Arm,
    Armed,
    Clear,
    Disarm,
    Failed,
    Heartbeat,
    Hello,
    Message,
    MessageError,
    Propose,
    Report,
    Revert,
    State,
    Status,
    Welcome,
    decode,
    encode,
    rows_from_hex,
)

ROWS = to_hex(np.arange(68, dtype=np.float32))
EXAMPLES: list[Message] = [
    Hello(role="agent", vehicle_id="twin_truck", run_id="r1", version="0.1.0"),
    Heartbeat(n=3),
    Arm(by="r1", token=None, resume=ROWS),
    Propose(id=1, first_row=2, rows=ROWS, age_ms=1.5),
    Disarm(cause="exit"),
    Revert(by="r key"),
    Clear(by="driver"),
    Status(),
    Welcome(vehicle_id="twin_truck", version="0.1.0", state="DISARMED", reference_sha256="ab" * 32),
    Armed(ok=True, resumed=False, live=ROWS),
    Answer(id=1, result="APPLIED", code=0, first_row=2, rows=ROWS, effect_ns=5, duration_s=0.1),
    State(state="LOCKED", cause="two masters"),
    Report(vehicle_id="twin_truck", version="0.1.0", state="ARMED", signals={"velocity": None}),
    Failed(reason="no"),
]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: message.kind)
def test_every_kind_goes_there_and_back(message: Message) -> None:
    assert decode(encode(message)) == message


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: message.kind)
def test_a_field_too_many_is_refused_by_name(message: Message) -> None:
    content = message.model_dump() | {"surplus": 1}
    with pytest.raises(MessageError, match=r"surplus.*Extra inputs"):
        decode(json.dumps(content).encode())


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "Invalid JSON"),
        (b"\xff\xfe", "Invalid JSON"),
        (b"[]", "should be an object"),
        (b"{}", "Unable to extract tag"),
        (b'{"kind": "shell", "command": "ls"}', "kind 'shell'"),
        (b'{"kind": "heartbeat"}', "Field required"),
        (b'{"kind": "heartbeat", "n": -1}', "greater than or equal"),
        (b'{"kind": "heartbeat", "n": "1"}', "valid integer"),
        (b'{"kind": "propose", "id": 1, "first_row": 0, "rows": "zz"}', "match pattern"),
        (b'{"kind": "propose", "id": 1, "first_row": 0, "rows": "", "age_ms": NaN}', "finite"),
        (b'{"kind": "disarm", "cause": "' + b"x" * 3000 + b'"}', "at most 2000"),
        (b"[" * 50_000, "refused"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, said: str) -> None:
    with pytest.raises(ChannelError, match=said):
        decode(data)


@settings(deadline=None)
@given(data=st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    with pytest.raises(MessageError):
        decode(data)


@settings(deadline=None)
@given(
    rows=hnp.arrays(
        np.float32, st.tuples(st.integers(1, 21), st.just(17)), elements=st.floats(width=32, allow_nan=True)
    )
)
def test_rows_come_back_bit_for_bit(rows: np.ndarray) -> None:
    back = rows_from_hex(to_hex(rows), 17)
    assert back.tobytes() == rows.tobytes()
    assert back.shape == rows.shape


def test_rows_are_the_buffer_form_of_the_contract() -> None:
    assert to_hex([[1.0, -2.5]]) == "0000803f" + "000020c0"


@pytest.mark.parametrize("text", ["", "0000803f" * 16, "0000803f" * 18])
def test_half_a_row_is_refused(text: str) -> None:
    with pytest.raises(MessageError, match="17 columns"):
        rows_from_hex(text, 17)
