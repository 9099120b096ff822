"""`aima up`: all of AIMA's processes on one machine, begun, kept alive and ended together."""
