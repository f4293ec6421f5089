"""The HTTP face of the coordinator. Routes are thin: they read the request, call a use case, write the answer."""
