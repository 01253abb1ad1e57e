"""Measured tables against the simulator: rows become scenarios, are simulated, and compared.

`formats.read_tables` tells a file's format by its columns and makes a `Case` of every row: of training and serving the
scenario a user would write for it (`training_mapping`, `serving_mapping`), of kernels and collectives what the laws say
(`kernel_cases`), or the reason why there is none. `runner.compare` plays what is mapped and tells the errors per table
and per (GPU, stack, kind), and how often knobs move prediction and measurement the same way (`agreement`), as one
document (`schema`). What each name of a table stands for is data, in `training_names` and `serving_names`; what is
known to be wrong, in `causes`.
"""
