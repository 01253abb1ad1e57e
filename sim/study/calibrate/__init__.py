"""Constants from measurements: of a (GPU, stack) from tables of servings, of a GPU from tables of kernels, or measured
on the card at hand.

`servings` chooses the rows that constants may be fitted to (one GPU, fully stated, dense, no queueing) and says why
the others are only tested (`stacks` fits); `kernels` does the same for tables of kernels. Both hand a `fit.Task` to
`select.calibrated`, which takes a constant only if rows that were left out are told better with it. `entry` writes what
was found as a catalogue entry with its sources and errors. `card` measures tables of kernels on the machine at hand,
`link` tells a measured link.
"""
