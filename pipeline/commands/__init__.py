"""One module for each command of the `diffstyle` CLI, imported only when that command runs."""
