"""The one error type for what a user can mend."""


class ConfigError(ValueError):
    """A flag, folder or model that cannot work; the message says what to do.

    The command line prints it as one line and exits with code 2.
    """
