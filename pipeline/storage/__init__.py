"""Places, parts, locks: what everything that is written rests on."""
