"""What each process of a deployed client may touch: files, network, signals. Linux sees to it, without root."""
