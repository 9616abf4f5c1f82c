"""Pools: stores of episodes behind one contract, one module a kind of store."""
