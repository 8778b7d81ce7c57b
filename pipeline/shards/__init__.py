"""Prepared pictures in WebDataset shards."""
