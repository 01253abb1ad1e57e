"""A serving job: requests arrive, ride in batches through replicas of a model, and leave."""
