"""The command line. A command is a module of its name with a click command `command`, imported when it is used."""
