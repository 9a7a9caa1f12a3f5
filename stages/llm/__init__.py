"""Labels texts with a language model at an HTTP endpoint."""
