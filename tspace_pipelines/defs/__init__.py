"""Definitions by area; each area lists its own in ``definitions``."""
