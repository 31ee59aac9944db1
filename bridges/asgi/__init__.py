"""Running an ASGI application for whoever asks: its lifespan, its requests, and what each of these is told and sent."""
