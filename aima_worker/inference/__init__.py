"""What an engine must answer to be ready: a request of its modality with a timeout, and the check of its answer."""
