"""Scaling laws, one small file each; `laws.registry.get("chinchilla")` finds one by name."""
