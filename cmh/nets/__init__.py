"""Towers and heads that two or more papers share."""
