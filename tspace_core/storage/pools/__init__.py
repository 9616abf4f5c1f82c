"""Stores of episodes, all with one contract: ``pool.Pool``; ``registry.open_pool`` opens one by its URL."""
