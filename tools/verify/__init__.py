"""Checks files against their manifest, and manifests against each other."""
