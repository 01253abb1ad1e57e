"""What the user describes, as frozen values."""
