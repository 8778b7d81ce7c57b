"""Other ways to start a run: on a Ray cluster through its job server, and on Slurm."""
