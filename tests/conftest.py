"""What all tests share."""

import os

from hypothesis import settings

# A busy machine must not fail a test: examples have no deadline.
settings.register_profile("steady", deadline=None)
settings.load_profile("steady")

# Nor may the width that someone wants their terminal to have.
os.environ.pop("COLUMNS", None)
