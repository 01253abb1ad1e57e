"""Failures and recovery: when something breaks, and what a training run makes of it."""
