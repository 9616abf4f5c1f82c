"""The whole way from an agent's proposal to the VCU's memory, broken at any moment."""
