"""Helpers of the tests: small models, steps for Ray, servers, services."""
