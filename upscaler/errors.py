"""The one exception that is meant for people."""


class UserError(Exception):
    """Something a person caused and can mend.

    The message is one line: what is wrong, with which file or value, and what to do about it.
    The command line prints it as it is; anything else that is raised is a bug.
    """
