"""`aima up`: Redis, an API node, a gateway and a worker of one machine under one supervisor."""
