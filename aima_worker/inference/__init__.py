"""What an engine must answer to be ready: a request of its modality, bounded by a timeout and a size, and the check of the answer."""
