"""A chat page with two back ends, Starlette and Flask-Sock, on any of four servers; see the README."""
