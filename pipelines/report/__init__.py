"""The report step: leaderboard, comparisons, suggestions, and the page that shows them."""
