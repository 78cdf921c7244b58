"""GGUF files: one file with a model's settings, its weights, often in few bits, and its tokenizer."""
