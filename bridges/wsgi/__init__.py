"""Running a WSGI application, whoever asks for it: the thread's side and the loop's side of one request."""
