"""Progress on the terminal: followers, trackers and displays."""
