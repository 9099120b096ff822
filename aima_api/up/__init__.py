"""`aima up`: Redis, an API node and a worker of one machine under one supervisor."""
