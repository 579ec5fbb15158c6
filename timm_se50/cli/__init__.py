"""The command `timm-se50`."""
