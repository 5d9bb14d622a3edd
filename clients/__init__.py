"""visavis.clients: the command line, a Python client, adapters."""
