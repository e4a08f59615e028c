"""The supervisor's adapters against real processes, disks and programs."""
