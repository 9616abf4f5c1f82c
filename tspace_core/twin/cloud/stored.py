"""Windows in object storage as the service deals with them: reads them, and spoils them on request."""

import asyncio
from collections.abc import Sequence

from tspace_core.errors import TwinError
from tspace_core.twin.cloud.faults import RemoteFault
from tspace_core.twin.cloud.spoil import OTHER_VIN, spoil_window, spoils_window
from tspace_core.twin.cloud.windows import Place, Window, to_bytes

_OF_THE_OBJECT = ("late_object", "huge_object")


class StoredWindows:
    """Reads and rewrites what boxes uploaded.

    Args:
        place: where it lies; None: the service knows no storage.
    """

    def __init__(self, place: Place | None) -> None:
        self._place = place
        self._late: set[asyncio.Task[None]] = set()

    async def window(self, link: str) -> Window:
        """The window behind a link.

        Raises:
            TwinError: the service knows no storage.
            ObjectError: it cannot be read.
            ValueError: it is no JSON.
        """
        return await asyncio.to_thread(self._known(link).get, link)

    async def spoilt(self, vin: str, link: str, hits: Sequence[RemoteFault]) -> str:
        """The link to answer with where faults hit the window or its object (errors as ``window``)."""
        faults = [fault for fault in hits if spoils_window(fault) or fault.kind in _OF_THE_OBJECT]
        if not faults:
            return link
        place = self._known(link)
        window = await self.window(link)
        key = link.removeprefix(place.link(""))
        body_mb, late_s = 0.0, 0.0
        for fault in faults:
            window = spoil_window(window, fault)
            if fault.kind == "wrong_vin":
                key = key.replace(vin, OTHER_VIN, 1)
            elif fault.kind == "huge_object":
                body_mb = fault.number
            elif fault.kind == "late_object":
                key, late_s = key.removesuffix(".json") + "9.json", fault.number
        body = to_bytes(window) + b" " * round(body_mb * 1e6)
        if late_s:
            task = asyncio.create_task(_later(place, key, body, late_s))
            self._late.add(task)
            task.add_done_callback(self._late.discard)
        else:
            await asyncio.to_thread(place.store.put, place.prefix + key, body)
        return place.link(key)

    def _known(self, link: str) -> Place:
        if self._place is None:
            message = f"the box uploaded {link}, but the service knows no storage; give it --storage"
            raise TwinError(message)
        return self._place


async def _later(place: Place, key: str, body: bytes, seconds: float) -> None:
    await asyncio.sleep(seconds)
    await asyncio.to_thread(place.store.put, place.prefix + key, body)
