"""Steps, their fingerprints, and the plan of a run."""
