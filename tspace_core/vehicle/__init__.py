"""A vehicle as the online run sees it: observations, flashes, HMI; the episode's states."""
