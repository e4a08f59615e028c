"""How fast Townkeeper is, as ratios against something simple in the same run."""
