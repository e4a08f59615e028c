"""What several suites need: processes, ports, deadlines, sample databases."""
