"""Measured tables against the simulator: rows become scenarios, are simulated, and compared.

`tables.read_folder` reads the documented CSV formats; `training_mapping.map_row` turns one measured training row into
the scenario a user would write for it, or says why it cannot; `runner.compare` simulates what is mapped and tells the
errors per table and per (GPU, stack, kind), and how often knobs move prediction and measurement the same way
(`agreement`). What each name of a table stands for is data, in `training_names`.
"""
