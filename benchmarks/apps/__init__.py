"""The applications that the contenders serve; each module imports only what its own apps need."""
