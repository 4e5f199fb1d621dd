"""The command line: arguments to frames, answers to lines. Nothing is decided here.

`ecorelay.cli.main` is the door; what it needs beyond the standard library it imports only once it is known
which command was asked for.
"""
