"""The work of a job: units for workers, and the driver side of each stage."""
