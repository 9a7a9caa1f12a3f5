"""Labels shards of any size with the ensemble."""
