"""Windows, quadruples, episodes: what learning is done on, with schemas, meta information and rewards."""
