"""The laboratory: training the embedded model, measuring loss against length, and drawing what was measured."""
