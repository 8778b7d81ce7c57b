"""The two U-Net families, cut into encode and decode."""
