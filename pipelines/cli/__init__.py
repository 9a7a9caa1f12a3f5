"""The command line. `app.py` lists the commands and imports a command's module when it is called."""
