"""Laws: pure functions of their arguments, with no clock and no randomness.

Each module states one model of the hardware or of the cluster - its assumption, its formula and its source -
in SI units, and knows nothing of SimPy, of files or of the scenario that asks.
"""
