"""Mixing operators: which partner, which pixels, which targets."""
