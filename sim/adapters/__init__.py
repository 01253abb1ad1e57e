"""Formats of the outside world turned into values of the simulator: positions kept, nothing simulated."""
