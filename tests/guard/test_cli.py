"""`tspace audit` and `tspace campaign`, as a person uses them."""

import json
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.guard.vehicles import Rig
from tspace_core.cli import app
from tspace_core.config import load_vehicle, settings
from tspace_core.errors import AuditError, TokenError

RUN = CliRunner()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with a log of some flashes."""
    rig = Rig(tmp_path / "online" / "twin_truck", load_vehicle("twin_truck"))
    rig.arm()
    for _ in range(3):
        rig.drive(1.2)
        assert rig.propose(-3.0).result == "APPLIED"
    assert rig.propose(-3.0).result == "REFUSED"
    rig.guard.trip("exit")
    rig.audit.close()
    return tmp_path


def audit(data: Path, *options: str) -> tuple[int, str]:
    done = RUN.invoke(app, ["audit", "--vehicle", "twin_truck", "--data-dir", str(data), *options])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_the_flashes_are_listed_and_the_chain_is_checked(data: Path) -> None:
    code, text = audit(data)
    assert code == 0
    assert text.count("APPLIED") == 3
    assert text.count("flash_refused") == 1
    assert "the chain holds" in text
    assert "armed" not in text
    _, everything = audit(data, "--all")
    assert "armed" in everything
    assert "exit" in everything


def test_json_is_one_object_and_nothing_else(data: Path) -> None:
    code, text = audit(data, "--json")
    found = json.loads(text)
    assert code == 0
    assert found["ok"] is True
    assert [event["event"] for event in found["events"]] == ["flash_result"] * 3 + ["flash_refused"]
    assert found["entries"] > 4


def test_a_time_range(data: Path) -> None:
    events = json.loads(audit(data, "--json")[1])["events"]
    some = json.loads(audit(data, "--json", "--since", events[1]["utc"], "--until", events[2]["utc"])[1])
    assert [event["seq"] for event in some["events"]] == [events[1]["seq"]]
    assert json.loads(audit(data, "--json", "--until", "1969-12-31")[1])["events"] == []
    assert len(json.loads(audit(data, "--json", "--since", "1970-01-01")[1])["events"]) == 4
    code, text = audit(data, "--since", "yesterday")
    assert code == 2
    assert "no instant" in text


def test_a_changed_log_is_exit_code_1_and_says_where(data: Path) -> None:
    path = data / "online" / "twin_truck" / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"code":0', b'"code":1', 1))
    code, text = audit(data)
    assert code == 1
    assert "does not hold" in text
    assert json.loads(audit(data, "--json")[1])["ok"] is False


def test_no_log_is_said(tmp_path: Path) -> None:
    done = RUN.invoke(app, ["audit", "--vehicle", "twin_truck", "--data-dir", str(tmp_path)])
    assert isinstance(done.exception, AuditError)


# Campaigns


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of conf/ whose twin_truck needs campaigns; its public key is put in by `keyed`."""
    copy = tmp_path / "conf"
    shutil.copytree(settings().conf_dir, copy)
    monkeypatch.setenv("TSPACE_CONF_DIR", str(copy))
    monkeypatch.setenv("TSPACE_DATA_DIR", str(tmp_path / "data"))
    settings.cache_clear()
    yield copy
    monkeypatch.undo()
    settings.cache_clear()


def keyed(conf: Path) -> Path:
    private = conf.parent / "private.key"
    done = RUN.invoke(app, ["campaign", "keys", "--out", str(private)])
    assert done.exit_code == 0, done.output
    file = conf / "vehicles" / "twin_truck.yaml"
    text = file.read_text()
    changed = text.replace(
        "campaign_required: false", f'campaign_required: true\n  campaign_key: "{done.output.strip()}"'
    )
    assert changed != text
    file.write_text(changed)
    return private


def signed(private: Path, *options: str) -> str:
    done = RUN.invoke(app, ["campaign", "sign", "--vehicle", "twin_truck", "--key", str(private), *options])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output.strip()


def test_keys_sign_check(conf: Path) -> None:
    private = keyed(conf)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    token = signed(private, "--flashes", "12", "--hours", "1")
    done = RUN.invoke(app, ["campaign", "check", "--vehicle", "twin_truck", token])
    assert done.exit_code == 0, (done.output, done.exception)
    assert "12 flashes" in done.output
    assert RUN.invoke(app, ["campaign", "check", "--vehicle", "twin_truck", token]).exit_code == 0, (
        "not spent"
    )
    for wrong in (
        token[:-4] + "AAAA",
        signed(private, "--start", "2020-01-01"),
        signed(private, "--driver", "habitual"),
    ):
        assert isinstance(
            RUN.invoke(app, ["campaign", "check", "--vehicle", "twin_truck", wrong]).exception, TokenError
        )


def test_a_token_of_the_command_line_arms_a_guard(conf: Path) -> None:
    private = keyed(conf)
    rig = Rig(conf.parent / "rig", load_vehicle("twin_truck"))
    rig.drive(0.1)
    token = signed(private, "--start", "1970-01-01", "--hours", "1")  # the rig's clock begins in 1970
    answer = rig.guard.arm(by="test", token=token, resume=None)
    assert answer.ok, answer.reason


def test_limits_that_were_changed_after_signing_need_a_new_token(conf: Path) -> None:
    private = keyed(conf)
    token = signed(private)
    file = conf / "vehicles" / "twin_truck.yaml"
    file.write_text(file.read_text().replace("neighbour_step_nm: 800", "neighbour_step_nm: 801"))
    done = RUN.invoke(app, ["campaign", "check", "--vehicle", "twin_truck", token])
    assert isinstance(done.exception, TokenError)
    assert "bounds_sha256" in str(done.exception)


def test_a_key_file_is_never_replaced_and_must_be_readable(conf: Path) -> None:
    private = keyed(conf)
    before = private.read_text()
    assert isinstance(RUN.invoke(app, ["campaign", "keys", "--out", str(private)]).exception, TokenError)
    assert private.read_text() == before
    for key in (conf / "none.key", conf):
        done = RUN.invoke(app, ["campaign", "sign", "--vehicle", "twin_truck", "--key", str(key)])
        assert isinstance(done.exception, TokenError)


def test_a_vehicle_without_a_key_checks_nothing() -> None:
    done = RUN.invoke(app, ["campaign", "check", "--vehicle", "twin_truck", "a.b"])
    assert isinstance(done.exception, TokenError)
    assert "campaign_key" in str(done.exception)
