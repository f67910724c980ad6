"""Stages that measure what a method makes of held-out patients."""
