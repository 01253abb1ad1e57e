"""Engine: where simulated time flows.

The rooms here run on SimPy and hold the state that changes with time (network, devices, cluster health,
faults, timeline); what a thing costs is asked of `sim.laws`.
"""
