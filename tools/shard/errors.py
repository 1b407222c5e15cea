"""What ends the program before it has begun."""


class Refused(Exception):
    """The command cannot be carried out as it is: one line, exit code 2."""

    exit_code = 2
