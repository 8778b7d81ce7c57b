"""What a job may say, and reading a job file."""
