"""What votes in the ensemble, how votes are mixed, how generations teach each other."""
