"""Errors a user can fix. Each carries one line: what is wrong and what to do. The CLI prints it and exits 2."""


class EmgupError(Exception):
    """Base class of every error that is reported as one line instead of a traceback."""


class ConfigError(EmgupError):
    """A configuration file or override is invalid."""


class DataError(EmgupError):
    """A recording, store or dataset folder is unusable."""


class NotApplicableError(DataError):
    """There is nothing to do for this user: the protocol has no row, or the method no meaning for the network."""


class ReleaseError(EmgupError):
    """A source release is missing, altered, or not signed by a trusted key."""


class RunError(EmgupError):
    """A simulation or its runtime failed."""


class VaultError(EmgupError):
    """The private vault cannot be opened, or holds something that was altered."""
