"""From pictures to a data set: which pairs of a run are chosen, how they are split, and the folder that is written."""
