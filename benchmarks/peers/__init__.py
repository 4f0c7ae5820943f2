"""What the peers need to do the same work; each module imports its peer and nothing of ours beyond the inputs."""
