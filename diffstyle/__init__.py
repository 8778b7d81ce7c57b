"""DiffStyle: training-free style transfer by content injection in h-space (arXiv 2303.15403), in pure torch."""

__version__ = "0.1.0"
