"""What a user can mend."""

import traceback


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


def told(error: BaseException, file: str | None) -> str:
    """What a user's own code has raised, as a part of a line: ", line 7: ValueError: what it says".

    Args:
        error: that was caught.
        file: of the user, whose line is told where the error came through it.
    """
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == file]
    said = str(error).strip().partition("\n")[0]
    place = f", line {lines[-1]}: " if lines else ": "
    return f"{place}{type(error).__name__}{': ' if said else ''}{said}"
