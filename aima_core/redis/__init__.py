"""Redis: connections, key names and Lua scripts."""
