"""farspan inside other libraries. Nothing here is imported until the user imports it."""
