"""Transports: CAN bus, XCP, UDP datagrams, the bridge's channel; one a file."""
