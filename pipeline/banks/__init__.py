"""Latent banks: x_T and h of many images, on a disk or an object store."""
