"""Vocabularies shared out among processes."""

from farspan.parallel.vocabulary import VocabularyShard, vocabulary_ranges

__all__ = ["VocabularyShard", "vocabulary_ranges"]
