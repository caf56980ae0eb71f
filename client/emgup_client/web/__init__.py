"""A page for the user, on this machine only: signal and decisions, state of personalization, every byte that left."""
