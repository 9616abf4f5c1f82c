"""Compiled loops of the stores. They call nothing outside their own file."""
