"""The models that a job can name: configs, weights, and a network in a worker."""
