"""What every client of a worker needs: a connection, a worker of its own, answers as they come."""
