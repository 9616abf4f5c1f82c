"""What must hold before the first flash of a run, and the campaign that it flies under."""

from collections.abc import Callable

import numpy as np

from tspace_core.config.torque_map import TorqueMap
from tspace_core.config.vehicle import Vehicle
from tspace_core.errors import ConfigError, TokenError
from tspace_core.guard.commands import Commands
from tspace_core.guard.envelope import Envelope
from tspace_core.guard.target import Identity
from tspace_core.guard.token import Campaign, CampaignLedger, check
from tspace_core.guard.transaction import MismatchError, Session, check_identity

INSPECTION_LIMIT_S = 10.0
"""Longest time that arming may take: a whole map is read while the vehicle drives by its reference page."""


class Arming:
    """Looks at the VCU and at the campaign token.

    Args:
        vehicle: with an xcp section.
        envelope: its limits.
        commands: the VCU.
        ledger: spent tokens.
        utc_ns: UTC, ns since 1970.
        driver: id of who drives.

    Raises:
        ConfigError: the vehicle has no xcp section.
    """

    def __init__(
        self,
        vehicle: Vehicle,
        envelope: Envelope,
        commands: Commands,
        ledger: CampaignLedger,
        utc_ns: Callable[[], int],
        driver: str,
    ) -> None:
        if vehicle.xcp is None:
            message = (
                f"vehicle {vehicle.id} has no xcp section, so nothing can be flashed; add one to its file"
            )
            raise ConfigError(message)
        self._vehicle, self._xcp, self._envelope = vehicle, vehicle.xcp, envelope
        self._commands, self._ledger, self._utc_ns = commands, ledger, utc_ns
        self._driver = driver
        self._reference = vehicle.default_map()
        self._campaign: Campaign | None = None
        self._token: str | None = None
        self._used = 0

    def inspect(self, mark: int) -> Session:
        """Identity, reference page in effect, and on it the vehicle's default map, bit for bit.

        Raises:
            MismatchError: it is another VCU, or it holds another reference map.
            LinkError: it does not answer as it must.
        """
        commands, axes = self._commands, self._reference
        with commands.transaction(mark, INSPECTION_LIMIT_S):
            found = commands.identify()
            place = self._xcp.parameters.get(self._xcp.map_name)
            # Without an address in the vehicle's file the A2L gave it; then only that it stays is checked.
            address = found.map_address if place is None else place.address
            expected = Identity(self._vehicle.vin, self._xcp.software_id, address)
            check_identity(found, expected)
            commands.unlock()
            page = commands.reference_page
            commands.activate(page)
            in_effect = commands.active_page()
            if in_effect != page:
                message = f"page {in_effect} is in effect, the reference page {page} could not be switched to"
                raise MismatchError(message)
            cells = commands.read(page, 0, len(axes.table))
            if cells.shape != axes.table.shape or not np.isfinite(cells).all():
                message = f"the VCU's reference page is no map of {axes.table.shape} numbers in Nm"
                raise MismatchError(message)
            held = TorqueMap(axes.pedal_axis, axes.speed_axis_kmh, cells).sha256()
            if held != self._envelope.reference_sha256:
                message = (
                    f"the VCU's reference page has hash {held[:16]}, the default map of {self._vehicle.id} "
                    f"{self._envelope.reference_sha256[:16]}: correct the vehicle's file or the VCU"
                )
                raise MismatchError(message)
            if not commands.checksum_ok(page, axes.table):
                message = "the VCU's checksum over its reference page is not that of the default map"
                raise MismatchError(message)
        return Session(expected, page, self._reference, open=True)

    def spend(self, token: str | None) -> dict[str, object] | None:
        """Check a campaign token and mark it as spent; returns what the audit log notes of it.

        The campaign of this process may be armed again, after an episode that was thrown away for example;
        what it has flashed stays counted.

        Raises:
            TokenError: it is needed and missing, or it does not hold.
        """
        limits = self._vehicle.guard
        if self._campaign is not None and token == self._token and self.over() is None:
            return {"nonce": self._campaign.nonce, "counter": self._campaign.counter, "again": True}
        self._campaign, self._token, self._used = None, None, 0
        if token is None and not limits.campaign_required:
            return None
        if token is None:
            message = (
                f"vehicle {self._vehicle.id} is armed only with a campaign token; see `tspace campaign sign`"
            )
            raise TokenError(message)
        if limits.campaign_key is None:
            message = (
                f"vehicle {self._vehicle.id} has no guard.campaign_key, so no campaign token can be checked"
            )
            raise TokenError(message)
        campaign = check(
            token,
            limits.campaign_key,
            vin=self._vehicle.vin,
            driver=self._driver,
            reference_sha256=self._envelope.reference_sha256,
            bounds_sha256=self._envelope.sha256(),
            utc_ns=self._utc_ns(),
        )
        self._ledger.spend(campaign)
        self._campaign, self._token = campaign, token
        return {"nonce": campaign.nonce, "counter": campaign.counter, "driver": campaign.driver}

    def flashed(self) -> None:
        """One of the campaign's flashes is used."""
        self._used += 1

    def used_up(self) -> str | None:
        """Why the campaign allows no more flashes, or None."""
        if self._campaign is None or self._used < self._campaign.flashes:
            return None
        return f"the campaign's {self._campaign.flashes} flashes are used up"

    def over(self) -> str | None:
        """Why the campaign's time is over, or None."""
        if self._campaign is None or self._utc_ns() < self._campaign.until_ns:
            return None
        return "the campaign's time is over"
