"""Sentiment of Telugu reviews by a Siamese network: classify, embed, find similar reviews, rank."""
