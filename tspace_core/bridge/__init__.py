"""The one process that writes to the bus: CAN to datagrams, guarded flashes, audit log."""
