"""Measurements as files: JSON, CSV, a picture."""
