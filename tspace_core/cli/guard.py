"""Commands of the guard: its audit log, and the campaigns that it may be armed for."""

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from tspace_core.cli.options import VehicleId

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
campaign_app = typer.Typer(
    help="Campaign tokens: who may flash which vehicle, when.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(campaign_app, name="campaign")

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Data folder; default: the settings'.")]


def _online_dir(vehicle: str, data_dir: Path | None) -> Path:
    from tspace_core.config import load_vehicle, settings

    root = settings().online_dir if data_dir is None else data_dir / "online"
    return root / load_vehicle(vehicle).id


def _instant(text: str | None, option: str) -> datetime | None:
    if text is None:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        message = f"{text!r} is no instant such as 2026-11-22 or 2026-11-22T14:30+01:00"
        raise typer.BadParameter(message, param_hint=option) from error
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


@app.command("audit")
def audit(
    vehicle: VehicleId,
    since: Annotated[str | None, typer.Option(help="First instant, ISO 8601; UTC unless it says.")] = None,
    until: Annotated[str | None, typer.Option(help="Instant after the last.")] = None,
    data_dir: DataDir = None,
    *,
    all_events: Annotated[bool, typer.Option("--all", help="Every event, not only flashes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Check a vehicle's audit log and list its flashes; exit code 1 where the log does not hold."""
    from tspace_core.guard.audit import read, verify

    first, last = _instant(since, "--since"), _instant(until, "--until")
    path = _online_dir(vehicle, data_dir) / "audit.jsonl"
    report = verify(path)
    entries = [
        entry
        for entry in read(path)
        if (all_events or entry["event"] in ("flash_result", "flash_refused"))
        and (first is None or datetime.fromisoformat(entry["utc"]) >= first)
        and (last is None or datetime.fromisoformat(entry["utc"]) < last)
    ]
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "path": str(path),
                    "ok": report.ok,
                    "entries": report.entries,
                    "head": report.head,
                    "problems": list(report.problems),
                    "events": entries,
                },
                indent=2,
            )
        )
    else:
        for entry in entries:
            typer.echo(_line(entry))
        typer.echo(f"{path}: {report.entries} lines, {len(entries)} listed, head {report.head[:16]}")
        for problem in report.problems:
            typer.echo(f"  {problem}", err=True)
        typer.echo("the chain holds" if report.ok else "THE LOG DOES NOT HOLD", err=not report.ok)
    if not report.ok:
        raise typer.Exit(1)


def _line(entry: dict[str, Any]) -> str:
    what = entry.get("result") or entry["event"]
    why = entry.get("reason") or entry.get("why") or ""
    proposal = entry.get("proposal", "")
    took = f"{1000 * entry['duration_s']:.0f} ms" if "duration_s" in entry else ""
    cells = f"{entry['cells']} cells" if "cells" in entry else ""
    return f"{entry['utc']}  {what:<14} {proposal!s:>7}  {cells:>10}  {took:>8}  {why}".rstrip()


@campaign_app.command("keys")
def keys(
    out: Annotated[Path, typer.Option(help="New file for the private key; keep it off the vehicles.")],
) -> None:
    """Make a pair of keys; the public one goes into the vehicle's file as guard.campaign_key."""
    from tspace_core.errors import TokenError
    from tspace_core.guard.token import new_keys

    private, public = new_keys()
    try:
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        message = f"{out} cannot be made ({error.strerror}); a private key never replaces a file"
        raise TokenError(message) from error
    with os.fdopen(descriptor, "w") as file:
        file.write(private + "\n")
    typer.echo(public)


@campaign_app.command("sign")
def sign(
    vehicle: VehicleId,
    key: Annotated[Path, typer.Option(help="File with the private key.")],
    driver: Annotated[
        str | None, typer.Option(help="Who drives; default: as the vehicle's file says.")
    ] = None,
    hours: Annotated[float, typer.Option(min=0.01, help="Good for so long from --start on.")] = 8.0,
    start: Annotated[str | None, typer.Option(help="Good from, ISO 8601; default: now.")] = None,
    flashes: Annotated[int, typer.Option(min=1, help="Flashes allowed.")] = 10_000,
    counter: Annotated[
        int | None, typer.Option(min=1, help="Higher than that of any token spent; default: the time.")
    ] = None,
) -> None:
    """Sign a token for one vehicle, its reference map and limits being as they are now."""
    from tspace_core.config import load_vehicle
    from tspace_core.errors import TokenError
    from tspace_core.guard.envelope import Envelope
    from tspace_core.guard.token import Campaign, new_nonce
    from tspace_core.guard.token import sign as sign_campaign

    config = load_vehicle(vehicle)
    envelope = Envelope.of(config)
    begin = _instant(start, "--start")
    from_ns = time.time_ns() if begin is None else round(begin.timestamp() * 1e9)
    try:
        private = key.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        message = f"{key} cannot be read ({error}); make one with `tspace campaign keys`"
        raise TokenError(message) from error
    campaign = Campaign(
        vin=config.vin,
        driver=driver or config.driver,
        reference_sha256=envelope.reference_sha256,
        bounds_sha256=envelope.sha256(),
        from_ns=from_ns,
        until_ns=from_ns + round(hours * 3600e9),
        flashes=flashes,
        nonce=new_nonce(),
        counter=counter if counter is not None else time.time_ns() // 1_000_000,
    )
    typer.echo(sign_campaign(campaign, private))


@campaign_app.command("check")
def check(
    vehicle: VehicleId,
    token: Annotated[str, typer.Argument(help="The token.")],
    driver: Annotated[
        str | None, typer.Option(help="Who drives; default: as the vehicle's file says.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Say what a token allows and whether the vehicle could be armed with it now; spends nothing."""
    from tspace_core.config import load_vehicle
    from tspace_core.errors import TokenError
    from tspace_core.guard.envelope import Envelope
    from tspace_core.guard.token import CampaignLedger
    from tspace_core.guard.token import check as check_campaign

    config = load_vehicle(vehicle)
    if config.guard.campaign_key is None:
        message = f"vehicle {vehicle} has no guard.campaign_key; put the public key into its file"
        raise TokenError(message)
    envelope = Envelope.of(config)
    campaign = check_campaign(
        token,
        config.guard.campaign_key,
        vin=config.vin,
        driver=driver or config.driver,
        reference_sha256=envelope.reference_sha256,
        bounds_sha256=envelope.sha256(),
        utc_ns=time.time_ns(),
    )
    CampaignLedger(_online_dir(vehicle, data_dir) / "campaigns.json").look(campaign)
    typer.echo(
        f"good: {vehicle}, driver {campaign.driver}, {campaign.flashes} flashes, until "
        f"{datetime.fromtimestamp(campaign.until_ns / 1e9, UTC):%Y-%m-%d %H:%M:%S} UTC, counter "
        f"{campaign.counter}"
    )
