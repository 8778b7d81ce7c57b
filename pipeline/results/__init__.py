"""What a run writes: pictures, the manifest, contact sheets."""
