"""Training jobs: one step played on representative ranks, and a run of such steps."""
