"""The report of a run: leaderboard, curves, page and pictures."""
