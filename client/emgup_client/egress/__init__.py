"""The way out of a user's machine: the user's policy, noise, the ledger of uses, the audit log, and the gate."""
