"""What both sides use of the operating system and the network: background loops, the state directory, connections."""
