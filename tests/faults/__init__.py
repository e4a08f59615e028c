"""Disks, processes, clocks and networks, broken on purpose."""
