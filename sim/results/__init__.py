"""Results: pure functions from what a run recorded to the one document that reports are drawn from."""
