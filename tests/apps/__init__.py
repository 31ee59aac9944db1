"""Tiny applications under test."""
