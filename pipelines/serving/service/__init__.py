"""`clozeline serve`: a REST service that returns the same predictions as `clozeline predict`.

app.py               routes
request_parsing.py   reads JSON bodies within limits and reports errors by field
batcher.py           the thread that owns the model and predicts in batches
metrics.py           Prometheus metrics
server.py            the server process: socket, signals, terminal output
"""
