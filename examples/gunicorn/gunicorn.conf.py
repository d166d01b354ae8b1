"""gunicorn's settings; start it in this directory with: gunicorn."""

wsgi_app = "app:application"
workers = 4

# The store is opened once, in the master: a wrong key stops the start instead of each worker. The workers may use the
# store as it is after the fork; only one of them refreshes an expired access token, and the others wait for it.
preload_app = True
