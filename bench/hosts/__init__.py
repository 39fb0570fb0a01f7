"""Machines: run a command, hold a live pipe, put a file, get a file. Nothing here knows about models."""
