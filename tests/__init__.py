"""The tests. They mirror the three packages; whole runs are in `scenarios`, helpers in `support`."""
