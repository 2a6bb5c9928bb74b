"""What a user can mend."""


class ConfigError(ValueError):
    """A flag, folder or model that cannot work; the message says what to do.

    The command line prints it as one line and exits with code 2.
    """


class DataError(RuntimeError):
    """An image, or another part of the data, that could not be read while the pipeline ran.

    The command line prints it as one line and exits with code 2.
    """


def first_line(error: Exception) -> str:
    """Return what another library says, shortened to its first line; the error's type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
