"""The command line's own parts: its words, what it shows while a run goes on, tables and pictures of plans."""
