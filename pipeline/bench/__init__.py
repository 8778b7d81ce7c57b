"""What `diffstyle bench` and `diffstyle quality` measure."""
