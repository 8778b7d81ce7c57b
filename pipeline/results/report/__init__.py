"""``diffstyle report``: a folder whose ``index.html`` opens from disk and shows every pair of a run."""
