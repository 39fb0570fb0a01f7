"""Markdown tables from records alone."""
