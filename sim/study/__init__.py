"""Studies: questions that take many runs of a scenario.

`sweep.prepare` and `sweep.run_sweep` vary keys of a scenario; `executors.open_executor` says where runs are played;
`pareto.pareto_front` finds what nothing beats.
"""
