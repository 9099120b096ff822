"""Progress of operations and log lines on the terminal: followers, tracker and displays."""
