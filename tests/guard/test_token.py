"""Campaign tokens: for one vehicle, driver, map, limits, time and arming, or not at all."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.guard.vehicles import Rig, limited, rows_of
from tspace_core.config import load_vehicle
from tspace_core.errors import TokenError
from tspace_core.guard.envelope import Envelope
from tspace_core.guard.flash_guard import FlashGuard
from tspace_core.guard.state import Proposal
from tspace_core.guard.token import Campaign, CampaignLedger, check, new_keys, new_nonce, read, sign

PRIVATE, PUBLIC = new_keys()
NOW = 1_800_000_000_000_000_000
HOUR = 3_600_000_000_000
GOOD: dict[str, Any] = {
    "vin": "TWNTRUCK000000001",
    "driver": "tracker",
    "reference_sha256": "a" * 64,
    "bounds_sha256": "b" * 64,
}


def campaign(**changes: Any) -> Campaign:
    return Campaign(
        **{
            **GOOD,
            "from_ns": NOW - HOUR,
            "until_ns": NOW + HOUR,
            "flashes": 3,
            "nonce": new_nonce(),
            "counter": 7,
            **changes,
        }
    )


def test_a_signed_campaign_reads_back() -> None:
    one = campaign()
    assert read(sign(one, PRIVATE), PUBLIC) == one
    assert check(f" {sign(one, PRIVATE)}\n", PUBLIC, **GOOD, utc_ns=NOW) == one


@pytest.mark.parametrize("name", list(GOOD))
def test_for_anything_else_it_is_not_good(name: str) -> None:
    token = sign(campaign(), PRIVATE)
    with pytest.raises(TokenError, match=f"is for {name}"):
        check(token, PUBLIC, **{**GOOD, name: "c" * 64}, utc_ns=NOW)


@pytest.mark.parametrize(
    ("utc_ns", "good"),
    [(NOW - HOUR - 1, False), (NOW - HOUR, True), (NOW + HOUR - 1, True), (NOW + HOUR, False)],
)
def test_the_time_window(utc_ns: int, good: bool) -> None:
    token = sign(campaign(), PRIVATE)
    if good:
        check(token, PUBLIC, **GOOD, utc_ns=utc_ns)
    else:
        with pytest.raises(TokenError, match="good from"):
            check(token, PUBLIC, **GOOD, utc_ns=utc_ns)


def test_every_changed_character_is_found() -> None:
    token = sign(campaign(), PRIVATE)
    for place in range(0, len(token), 7):
        other = "A" if token[place] != "A" else "B"
        with pytest.raises(TokenError):
            read(token[:place] + other + token[place + 1 :], PUBLIC)


def test_another_signer_or_no_token_is_refused() -> None:
    with pytest.raises(TokenError, match="not signed by the key"):
        read(sign(campaign(), new_keys()[0]), PUBLIC)
    for text in ("", "x", "a.b", "a.b.c", "é.é", "." * 5, "!!!.!!!"):
        with pytest.raises(TokenError):
            read(text, PUBLIC)
    with pytest.raises(TokenError, match="no Ed25519 key"):
        sign(campaign(), "beef")


def test_a_signed_payload_that_is_no_campaign_is_refused() -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(PRIVATE))

    def encoded(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    for content in (b"[]", b"{}", json.dumps({**campaign().model_dump(), "more": 1}).encode()):
        with pytest.raises(TokenError, match="no campaign token"):
            read(f"{encoded(content)}.{encoded(key.sign(content))}", PUBLIC)


def test_a_nonce_is_spent_once_and_counters_rise(tmp_path: Path) -> None:
    ledger = CampaignLedger(tmp_path / "new" / "campaigns.json")
    first = campaign(counter=7)
    ledger.spend(first)
    again = CampaignLedger(ledger.path)  # after a restart
    with pytest.raises(TokenError, match="is spent"):
        again.spend(first)
    with pytest.raises(TokenError, match="is spent"):
        again.spend(campaign(counter=99, nonce=first.nonce))
    for counter in (6, 7):
        with pytest.raises(TokenError, match="counter"):
            again.spend(campaign(counter=counter))
    again.spend(campaign(counter=8))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"nonces": 3}', '{"nonces": [], "counter": "x"}'])
def test_a_damaged_ledger_lets_nobody_in(content: str, tmp_path: Path) -> None:
    path = tmp_path / "campaigns.json"
    path.write_text(content)
    with pytest.raises(TokenError, match="damaged"):
        CampaignLedger(path).spend(campaign())


def test_a_ledger_that_cannot_be_written_lets_nobody_in(tmp_path: Path) -> None:
    (tmp_path / ".campaigns.json.tmp").mkdir()
    with pytest.raises(TokenError, match="cannot be written"):
        CampaignLedger(tmp_path / "campaigns.json").spend(campaign())


# In the guard


def rig_and_token(folder: Path, **changes: Any) -> tuple[Rig, str]:
    vehicle = limited(load_vehicle("twin_truck"), campaign_required=True, campaign_key=PUBLIC)
    rig = Rig(folder, vehicle)
    envelope = Envelope.of(vehicle)
    given = {
        "vin": vehicle.vin,
        "driver": vehicle.driver,
        "reference_sha256": envelope.reference_sha256,
        "bounds_sha256": envelope.sha256(),
        "from_ns": rig.clock(),
        "until_ns": rig.clock() + HOUR,
        **changes,
    }
    rig.drive(0.1)
    return rig, sign(campaign(**given), PRIVATE)


def test_no_token_no_arming(tmp_path: Path) -> None:
    rig, _ = rig_and_token(tmp_path)
    answer = rig.guard.arm(by="test", token=None, resume=None)
    assert not answer.ok
    assert "campaign token" in answer.reason
    assert rig.state == "DISARMED"


def test_a_campaign_is_armed_again_in_its_process_and_its_flashes_stay_counted(tmp_path: Path) -> None:
    rig, token = rig_and_token(tmp_path)
    assert rig.guard.arm(by="test", token=token, resume=None).ok
    for _ in range(2):
        rig.drive(1.2)
        assert rig.propose(-3.0).result == "APPLIED"
    rig.guard.trip("end_invalid")
    rig.drive(0.1)
    assert rig.guard.arm(by="test", token=token, resume=None).ok
    results = []
    for _ in range(2):
        rig.drive(1.2)
        results.append(rig.propose(-3.0).result)
    assert results == ["APPLIED", "REFUSED"], "3 flashes in all"


def test_a_token_is_not_taken_by_another_process(tmp_path: Path) -> None:
    rig, token = rig_and_token(tmp_path)
    assert rig.guard.arm(by="test", token=token, resume=None).ok
    rig.guard.trip("exit")
    rig.guard = FlashGuard(rig.vehicle, rig.target, rig.audit, now_ns=rig.clock, utc_ns=rig.clock)
    rig.drive(0.1)
    answer = rig.guard.arm(by="test", token=token, resume=None)
    assert not answer.ok
    assert "is spent" in answer.reason


@pytest.mark.parametrize("name", ["vin", "driver", "reference_sha256", "bounds_sha256"])
def test_a_token_for_something_else_does_not_arm(name: str, tmp_path: Path) -> None:
    rig, token = rig_and_token(tmp_path, **{name: "c" * 64})
    answer = rig.guard.arm(by="test", token=token, resume=None)
    assert not answer.ok
    assert name in answer.reason


def test_a_campaign_ends_with_its_flashes(tmp_path: Path) -> None:
    rig, token = rig_and_token(tmp_path)
    assert rig.guard.arm(by="test", token=token, resume=None).ok
    for number in range(4):
        rig.drive(1.2)
        outcome = rig.propose(-3.0)
        assert (outcome.result == "APPLIED") == (number < 3)
    assert "used up" in outcome.reason


def test_a_campaign_ends_with_its_time(tmp_path: Path) -> None:
    rig, token = rig_and_token(tmp_path, until_ns=1_000_000_000_000 + 5_000_000_000)
    assert rig.guard.arm(by="test", token=token, resume=None).ok
    rig.drive(4.0)
    assert rig.state == "ARMED"
    rig.drive(1.5)
    assert rig.state == "DISARMED"
    assert "time is over" in rig.guard.cause


def test_over_between_two_ticks_is_refused(tmp_path: Path) -> None:
    rig, token = rig_and_token(tmp_path, until_ns=1_000_000_000_000 + 2_000_000_000)
    assert rig.guard.arm(by="test", token=token, resume=None).ok
    rig.drive(1.8)
    rig.clock.pass_s(0.3)
    rows = rows_of(rig.guard.live, 4)
    outcome = rig.guard.propose(Proposal(1, 4, rows, rig.clock()))
    assert outcome.reason.startswith("campaign")


def test_a_token_without_a_key_in_the_vehicles_file(tmp_path: Path) -> None:
    rig = Rig(tmp_path, limited(load_vehicle("twin_truck"), campaign_required=True))
    rig.drive(0.1)
    answer = rig.guard.arm(by="test", token="a.b", resume=None)
    assert "no guard.campaign_key" in answer.reason


def test_another_driver_may_be_named(tmp_path: Path) -> None:
    rig, token = rig_and_token(tmp_path, driver="somebody")
    rig.guard = FlashGuard(
        rig.vehicle, rig.target, rig.audit, now_ns=rig.clock, utc_ns=rig.clock, driver="somebody"
    )
    rig.drive(0.1)
    assert rig.guard.arm(by="test", token=token, resume=None).ok
