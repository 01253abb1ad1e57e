"""Jobs: stories told as SimPy processes on the engine's clock."""
