"""Laws of a training step: pure functions, no clock, no randomness."""
