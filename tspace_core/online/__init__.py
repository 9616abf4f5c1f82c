"""The online run: windows to actions to flashes, learning beside it, episodes stored."""
