"""The DiffStyle batch pipeline: sources -> shards -> banks -> tiles -> pictures + manifest."""
