"""Complementary Attention Head Pruning (CAHP) for Hugging Face transformers, as a Torch-Pruning strategy."""

__version__ = "0.1.0"
