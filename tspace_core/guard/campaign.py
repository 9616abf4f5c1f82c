"""The campaign that a guard is armed for: checked once, spent on the disk, counted by flash."""

from collections.abc import Callable

from tspace_core.config.vehicle import Vehicle
from tspace_core.errors import TokenError
from tspace_core.guard.envelope import Envelope
from tspace_core.guard.token import Campaign, CampaignLedger, check


class Campaigns:
    """The campaign token of one guard.

    Args:
        vehicle: whose.
        envelope: its limits.
        ledger: spent tokens.
        utc_ns: UTC, ns since 1970.
        driver: id of who drives.
    """

    def __init__(
        self,
        vehicle: Vehicle,
        envelope: Envelope,
        ledger: CampaignLedger,
        utc_ns: Callable[[], int],
        driver: str,
    ) -> None:
        self._vehicle, self._envelope = vehicle, envelope
        self._ledger, self._utc_ns, self._driver = ledger, utc_ns, driver
        self._campaign: Campaign | None = None
        self._token: str | None = None
        self._used = 0

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
