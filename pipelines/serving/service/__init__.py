"""`clozeline serve`: a REST service that returns the same predictions as `clozeline predict`.

app.py               routes
request_parsing.py   reads JSON bodies within limits and reports errors by field
batcher.py           the thread that owns the model and predicts in batches, and Prometheus metrics
middleware.py        request ids, access log, keys
openapi.py           the OpenAPI document and its page
task_admin.py        routes that change the tasks while the service runs
task_limits.py       limits of the texts of each task
task_file.py         the file that keeps the tasks
server.py            the server process: socket, signals, terminal output
replicas.py          the same service in replicas on Ray Serve
"""
