"""A Django site with a model, the admin, uploads, files and messages."""
