"""The federation's client: verifies releases, adapts on the user's own data, keeps weights in a private vault."""
