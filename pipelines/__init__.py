"""WHICH steps run: the DAG, the config, the command line and the final report."""
