"""Situations as vectors: windows of signals, encoded so that similar driving lies close together."""
