"""`clozeline serve`: a REST service of what `clozeline predict` answers with.

queue.py     one thread with the model, which answers what waits in batches
bodies.py    JSON bodies read into texts, within limits, and what is wrong with them
metrics.py   figures for Prometheus
app.py       the addresses
running.py   the server's process: its socket, its signals, its last words
"""
