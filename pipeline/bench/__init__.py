"""What `diffstyle bench` measures."""
